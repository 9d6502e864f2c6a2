// Drawing: the picture is scaled into a box of 20 by 20, and its center of mass is put on pixel 14 of 28, as in MNIST.

const pad = $("pad");
const pen = pad.getContext("2d", { willReadFrequently: true });
const PEN = 20;

function center(ink, side, height, width) {
  let [top, bottom, left, right] = [side, -1, side, -1];
  ink.forEach((v, i) => {
    if (v < 20) return;
    const [y, x] = [(i / side) | 0, i % side];
    [top, bottom, left, right] = [Math.min(top, y), Math.max(bottom, y), Math.min(left, x), Math.max(right, x)];
  });
  const made = new Uint8Array(height * width);
  if (bottom < 0) return made;
  const scale = Math.max((bottom - top + 1) / height, (right - left + 1) / width) * 1.4;
  const h = Math.max(1, Math.round((bottom - top + 1) / scale));
  const w = Math.max(1, Math.round((right - left + 1) / scale));
  const small = new Float64Array(h * w);
  let [mass, down, across] = [0, 0, 0];
  for (let i = 0; i < h * w; i++) {
    const [y, x] = [(i / w) | 0, i % w];
    // the mean of the pixels below this one
    let [sum, count] = [0, 0];
    for (let a = Math.floor(top + y * scale); a < top + (y + 1) * scale; a++) {
      for (let b = Math.floor(left + x * scale); b < left + (x + 1) * scale; b++, count++) sum += ink[a * side + b] || 0;
    }
    small[i] = sum / count;
    mass += small[i];
    down += small[i] * y;
    across += small[i] * x;
  }
  const [dy, dx] = [Math.round(height / 2 - down / mass), Math.round(width / 2 - across / mass)];
  small.forEach((v, i) => {
    const [y, x] = [((i / w) | 0) + dy, (i % w) + dx];
    if (y >= 0 && y < height && x >= 0 && x < width) made[y * width + x] = v;
  });
  return made;
}

function start() {
  const [, height, width] = net.graph.input.shape;
  const side = pad.width;
  const see = (numbers) => {
    paint($("seen"), numbers, [1, height, width]);
    if (numbers.some((v) => v)) answer(numbers);
    else {
      $("answer").textContent = "Draw something";
      for (const bar of document.querySelectorAll(".bar")) bar.hidden = true;
    }
  };
  const wipe = () => pen.clearRect(0, 0, side, side);
  Object.assign(pen, { lineWidth: PEN, lineCap: "round", lineJoin: "round", strokeStyle: "#fff" });
  let due = false;
  const read = () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      const { data } = pen.getImageData(0, 0, side, side);
      see(center(Uint8Array.from({ length: side * side }, (_, i) => data[4 * i + 3]), side, height, width));
    });
  };
  const line = (from, to) => {
    pen.beginPath();
    pen.moveTo(...from);
    pen.lineTo(to[0] + 0.01, to[1]);  // a line without length would not be drawn
    pen.stroke();
    read();
  };
  let sample = false;
  let at;
  const fresh = () => {
    if (sample) wipe();
    sample = false;
  };
  const place = (event) => {
    const box = pad.getBoundingClientRect();
    return [((event.clientX - box.left) * side) / box.width, ((event.clientY - box.top) * side) / box.height];
  };
  pad.onpointerdown = (event) => {
    fresh();
    pad.setPointerCapture(event.pointerId);
    line((at = place(event)), at);
  };
  pad.onpointermove = (event) => {
    if (event.buttons) for (const one of event.getCoalescedEvents?.() || [event]) line(at || place(one), (at = place(one)));
  };
  const clear = () => {
    wipe();
    read();
  };
  $("clear").onclick = clear;

  // by keyboard: a dot shows where the pen is, and whether it is down
  let [x, y, drawing] = [side / 2, side / 4, false];
  pad.onkeydown = (event) => {
    const move = { ArrowLeft: [-14, 0], ArrowRight: [14, 0], ArrowUp: [0, -14], ArrowDown: [0, 14] }[event.key];
    if (event.key === " ") drawing = !drawing;
    else if (event.key === "Delete") clear();
    else if (!move) return;
    event.preventDefault();
    fresh();
    const before = [x, y];
    if (move) [x, y] = [x + move[0], y + move[1]].map((v) => Math.min(side - PEN, Math.max(PEN, v)));
    if (drawing) line(before, [x, y]);
    const [left, top] = [x, y].map((v) => `${(100 * v) / side}%`);
    pad.style.background = `radial-gradient(circle at ${left} ${top}, ${drawing ? "#fa4" : "#58f"} 6px, #000 7px)`;
  };
  pad.onblur = () => (pad.style.background = "");

  const offer = (bytes) => {
    for (let at = 0; at < bytes.length; at += net.count) {
      const numbers = bytes.subarray(at, at + net.count);
      const small = element("canvas");
      paint(small, numbers, [1, height, width]);
      const use = () => {
        wipe();
        pen.imageSmoothingEnabled = false;
        pen.drawImage(small, 0, 0, side, side);
        sample = true;
        see(numbers);
      };
      $("choices").append(element("button", { onclick: use, ariaLabel: `Sample ${at / net.count + 1}` }, small));
      if (!at) use();
    }
    if (!bytes.length) clear();
  };
  inflate("samples").then(async (stored) => offer(new Uint8Array(await stored.arrayBuffer())));
}
