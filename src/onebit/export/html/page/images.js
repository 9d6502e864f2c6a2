// Pictures: from a file, dropped or pasted; cut to the net's shape around their middle and resized.

function start() {
  const { shape } = net.graph.input;
  const [channels, height, width] = shape;
  const seen = $("seen");
  seen.width = width;
  seen.height = height;
  const see = (numbers) => {
    paint(seen, numbers, shape);
    $("answer").textContent = "…";
    // the page shows the picture before a net that takes seconds runs
    setTimeout(() => answer(numbers), 30);
  };
  const numbersOf = (picture, x, y, w, h) => {
    const canvas = element("canvas", { width, height });
    const pen = canvas.getContext("2d");
    Object.assign(pen, { imageSmoothingQuality: "high", fillStyle: "#fff" }).fillRect(0, 0, width, height);
    pen.drawImage(picture, x, y, w, h, 0, 0, width, height);
    const { data } = pen.getImageData(0, 0, width, height);
    const numbers = new Uint8Array(net.count);
    for (let i = 0; i < width * height; i++) {
      const rgb = data.subarray(4 * i, 4 * i + 3);
      if (channels === 1) numbers[i] = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] + 0.5;
      else rgb.forEach((v, c) => (numbers[c * width * height + i] = v));
    }
    return numbers;
  };
  const read = async (blob) => {
    try {
      const picture = await createImageBitmap(blob);
      const scale = Math.min(picture.width / width, picture.height / height);
      const [w, h] = [width * scale, height * scale];
      see(numbersOf(picture, (picture.width - w) / 2, (picture.height - h) / 2, w, h));
    } catch {
      $("answer").textContent = "This file is not a picture";
    }
  };
  $("file").onchange = (event) => event.target.files[0] && read(event.target.files[0]);
  const over = (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", event.type === "dragover");
  };
  document.body.ondragover = document.body.ondragleave = over;
  document.body.ondrop = (event) => {
    over(event);
    if (event.dataTransfer.files[0]) read(event.dataTransfer.files[0]);
  };
  document.onpaste = (event) => {
    const blob = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
    if (blob) read(blob);
  };
  const stored = $("samples").textContent;
  if (!stored) return;
  const sheet = new Image();
  sheet.onload = () => {
    for (let at = 0; at < sheet.naturalHeight; at += height) {
      const numbers = numbersOf(sheet, 0, at, width, height);
      const small = element("canvas");
      paint(small, numbers, shape);
      $("choices").append(element("button", { onclick: () => see(numbers), ariaLabel: `Sample ${at / height + 1}` }, small));
      if (!at) see(numbers);
    }
  };
  sheet.src = `data:image/jpeg;base64,${stored}`;
}

function show(made) {
  const values = made.get(net.outputs[0]);
  const { shape } = net.values.get(net.outputs[0]);
  if (net.outputs.length > 1 || ![1, 3].includes(shape.length)) showNumbers(made);
  else if (shape.length === 1) showClasses(values);
  else showMap(values, shape);
}

// The label of each pixel, as a color
function showMap(values, [labels, height, width]) {
  const count = Math.max(2, labels);
  const color = (k) => (count === 2 ? [38 + 206 * k, 62 + 174 * k, 110 + 110 * k] : [0, 2, 4].map((c) => 128 + 110 * Math.cos((6.28 * k) / count + c)));
  const pixels = width * height;
  const seen = new Float64Array(count);
  const map = new Uint8Array(3 * pixels);
  for (let i = 0; i < pixels; i++) {
    let best = labels === 1 ? +(values[i] >= 0) : 0;
    for (let k = 1; k < labels; k++) if (values[k * pixels + i] > values[best * pixels + i]) best = k;
    seen[best]++;
    color(best).forEach((v, c) => (map[c * pixels + i] = v));
  }
  const canvas = element("canvas", { id: "map", role: "img", ariaLabel: "The label of each pixel" });
  paint(canvas, map, [3, height, width]);
  const names = net.graph.classes?.length === count ? net.graph.classes : Array.from(seen, (_, k) => `class ${k}`);
  const legend = element("p");
  [...seen.keys()].filter((k) => seen[k]).slice(0, 30).forEach((k) => {
    const key = element("i", { className: "key" });
    key.style.background = `rgb(${color(k).map(Math.round)})`;
    legend.append(key, `${names[k]} ${text((100 * seen[k]) / pixels, 1)} %`);
  });
  $("answer").textContent = `${text(pixels)} pixels labeled`;
  $("results").replaceChildren(canvas, legend);
}
