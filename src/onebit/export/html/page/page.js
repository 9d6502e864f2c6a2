// What all pages share: the answer, facts on the net, its first weights as pictures, its layers.

const $ = (id) => document.getElementById(id);
const info = JSON.parse($("info").textContent);
const text = (count, digits = 0) => count.toLocaleString("en", { maximumFractionDigits: digits });

// An element with properties and children; text is never read as HTML
function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const image = (canvas) => {
  const pen = canvas.getContext("2d");
  return [pen, pen.createImageData(canvas.width, canvas.height)];
};

// Numbers 0 to 255 in the order (C, H, W), of one or three channels, on a canvas
function paint(canvas, numbers, [channels, height, width]) {
  Object.assign(canvas, { width, height });
  if (width > 100) canvas.style.imageRendering = "auto";
  const [pen, pixels] = image(canvas);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = numbers[(channels > 1 ? c : 0) * width * height + i];
    pixels.data[4 * i + 3] = 255;
  }
  pen.putImageData(pixels, 0, 0);
}

// A line in place of the outputs
function refuse(problem) {
  $("answer").textContent = problem;
  $("results").replaceChildren();
}

// Outputs for the numbers of one sample, shown
let last, took;
function answer(numbers) {
  const began = performance.now();
  $("results").style.visibility = "";
  try {
    const made = net.run(numbers);
    [last, took] = [numbers, performance.now() - began];
    show(made);
  } catch ({ message }) {
    refuse(message);
  }
}

// Milliseconds of a call that took `time`: the fastest of ten rounds of 20 ms or more, because clocks of browsers are
// coarse. It takes a second at most, and none for a slow call.
function timed(call, time) {
  const start = performance.now();
  for (let round = 0; round < 10 && time < 500 && performance.now() - start < 1000; round++) {
    let [count, began, now] = [0, performance.now(), 0];
    do {
      call();
      count++;
      now = performance.now();
    } while (now - began < 20);
    time = Math.min(time, (now - began) / count);
  }
  return time;
}

function showTime(time) {
  const shown = time < 2000 ? `${text(time, time < 10 ? 2 : 0)} ms` : `${text(time / 1000)} s`;
  $("time").textContent = `${shown}, measured in this browser`;
}

function facts() {
  const rows = net.nodes.map((node, k) => ({
    name: node.output,
    operation: node.op.replaceAll("_", " "),
    output: node.made.shape.join(" × "),
    bits: node.signs ? node.rows * node.terms : 0,
    reals: info.reals[k],
  }));
  const total = (key) => rows.reduce((sum, row) => sum + row[key], 0);
  $("name").textContent = net.graph.name || "Packed net";
  const list = {
    Size: `${text(total("bits"))} weights of one bit in a file of ${text(file.length / 1000, 1)} kB, ${text(info.ratio, 1)} × smaller than float32`,
    Certificate: info.statement,
    "Time per sample": "…",
  };
  for (const [name, value] of Object.entries(list)) {
    $("facts").append(element("div", {}, element("dt", {}, name), element("dd", { id: name[0] === "T" ? "time" : "" }, value)));
  }
  const head = ["layer", "operation", "output", "one-bit weights", "real numbers"];
  $("layers").append(element("tr", {}, ...head.map((name) => element("th", {}, name))));
  for (const { name, operation, output, bits, reals } of rows) {
    const cells = [name, operation, output, bits && text(bits), reals && text(reals)];
    $("layers").append(element("tr", {}, ...cells.map((cell) => element("td", {}, cell || ""))));
  }
  $("download").onclick = () => {
    const href = URL.createObjectURL(new Blob([file]));
    element("a", { href, download: `${net.graph.name || "net"}.1bit` }).click();
    setTimeout(() => URL.revokeObjectURL(href), 1000);
  };
}

// Each row of the first weights as a picture; or all rows as the columns of one
function pictures() {
  const node = net.nodes.find((node) => node.terms);
  if (!node) return;
  const { shape } = net.values.get("input");
  const first = shape.length === 3 && [1, 3].includes(shape[0]);
  const kernel = node.kernel || shape.slice(1);
  const [height, width] = kernel;
  const channels = node.terms / (height * width);
  const whole = !first || ![1, 3].includes(channels) || height < 2;
  const [h, w] = whole ? [node.terms, 1] : [height, width];
  const count = Math.min(node.rows, whole ? 512 : 60);
  const across = whole ? count : Math.min(count, h > 9 ? 12 : 8);
  const gap = whole ? 0 : h > 9 ? 2 : 1;
  const canvas = $("signs");
  canvas.width = across * (w + gap) - gap;
  canvas.height = Math.ceil(count / across) * (h + gap) - gap;
  const [pen, pixels] = image(canvas);
  const perRow = (node.terms + 7) >> 3;
  for (let row = 0; row < count; row++) {
    const reals = node.weight?.subarray(row * node.terms, (row + 1) * node.terms);
    const most = reals?.reduce((m, x) => Math.max(m, Math.abs(x)), 1e-30);
    for (let i = 0; i < h * w; i++) {
      const x = (row % across) * (w + gap) + (i % w);
      const y = ((row / across) | 0) * (h + gap) + ((i / w) | 0);
      for (let c = 0; c < 3; c++) {
        // dense: (C, H, W); convolutions: (H, W, C)
        const channel = channels === 3 && !whole ? c : 0;
        const k = node.kernel && !whole ? i * channels + channel : channel * h * w + i;
        const value = reals ? reals[k] / most : ((node.signs[row * perRow + (k >> 3)] >> (k & 7)) & 1) * 2 - 1;
        const [low, high] = channels === 3 && !whole ? [60, 230] : [[38, 62, 110][c], [244, 236, 220][c]];
        pixels.data[4 * (y * canvas.width + x) + c] = low + ((value + 1) / 2) * (high - low);
      }
      pixels.data[4 * (y * canvas.width + x) + 3] = 255;
    }
  }
  pen.putImageData(pixels, 0, 0);
  $("weights").hidden = false;
  canvas.style.maxWidth = `min(100%, ${(h > 9 && !whole ? 4 : 12) * canvas.width}px)`;
  const each = whole ? "a column" : "a picture";
  const words = `${text(count)} of ${text(node.rows)} rows of ${node.output}, each ${each}: light is ${node.weight ? "positive" : "+1"}, dark is ${node.weight ? "negative" : "−1"}`;
  $("legend").textContent = canvas.ariaLabel = channels === 3 && !whole ? `${words}, in red, green and blue` : words;
}

let net, file;
function begin(bytes) {
  file = bytes;
  net = openNet(file);
  onebit.run = (numbers) => net.run(numbers);
  facts();
  pictures();
  start();
  setTimeout(() => last && showTime(timed(() => net.run(last), took)), 300);
}
