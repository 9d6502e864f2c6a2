// Pictures: from a file, dropped or pasted; cut to the net's shape around their middle and resized, transparent pixels
// over black, as `onebit predict` does for nets that classify. Those for masks, which it tiles, see a scaled picture, too.

// The net runs in a worker, so that the page lives on while a large one takes seconds; it is timed when nothing else is
// to do. The last one of the pictures that come while it runs is answered, the others are left out.
function worker() {
  const begun = `let net, idle;
    ${timed}
    onmessage = ({ data }) => {
      if (!net) return (net = openNet(data));
      clearTimeout(idle);
      const began = performance.now();
      const made = net.run(data);
      const time = performance.now() - began;
      postMessage(made);
      idle = setTimeout(() => postMessage(timed(() => net.run(data), time)), 300);
    };`;
  const engine = document.getElementById("engine-script").textContent;
  let made;
  try {
    made = new Worker(URL.createObjectURL(new Blob([engine, begun])));
  } catch {
    return answer;
  }
  let [asked, next, blocked] = [null, null, false];
  const ask = (numbers) => {
    if (blocked) answer(numbers);
    else if (asked) next = numbers;
    else made.postMessage((asked = numbers));
  };
  const goOn = (say) => {
    const waits = next;
    asked = next = null;
    if (waits) return ask(waits);
    $("results").style.visibility = "";
    say();
  };
  made.onmessage = ({ data }) => (data instanceof Map ? goOn(() => show(data)) : showTime(data));
  made.onerror = (error) => {
    error.preventDefault();
    const picture = asked;
    blocked = !error.message; // a worker that the browser does not start has no message
    if (!blocked) goOn(() => refuse(error.message.replace("Uncaught Error: ", "")));
    else if (picture) goOn(() => answer(picture));
  };
  made.postMessage(file);
  return ask;
}

function start() {
  const ask = worker();
  const { shape } = net.graph.input;
  const [channels, height, width] = shape;
  const seen = $("seen");
  seen.width = width;
  seen.height = height;
  const see = (numbers, how = "") => {
    paint(seen, numbers, shape);
    $("how").textContent = how;
    $("answer").textContent = "Working …";
    $("results").style.visibility = "hidden"; // what is there belongs to another picture
    ask(numbers);
  };
  const numbersOf = (picture, x, y, w, h) => {
    const canvas = element("canvas", { width, height });
    const pen = canvas.getContext("2d");
    Object.assign(pen, { imageSmoothingQuality: "high", fillStyle: "#000" }).fillRect(0, 0, width, height);
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
  // What was done to a picture of which the middle w × h is seen, in words; "" for one of the net's own size
  const changed = (picture, w, h) => {
    const size = (...sides) => sides.map((side) => text(Math.max(1, Math.round(side)))).join(" × ");
    const [whole, middle] = [size(picture.width, picture.height), size(w, h)];
    const cut = whole === middle ? "" : `, its middle ${middle}`;
    const scaled = middle === size(width, height) ? "" : `, scaled to ${size(width, height)}`;
    return cut || scaled ? `${whole} pixels${cut}${scaled}` : "";
  };
  const read = async (blob) => {
    try {
      const picture = await createImageBitmap(blob);
      const scale = Math.min(picture.width / width, picture.height / height);
      const [w, h] = [width * scale, height * scale];
      see(numbersOf(picture, (picture.width - w) / 2, (picture.height - h) / 2, w, h), changed(picture, w, h));
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
