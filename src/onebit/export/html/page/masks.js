// The label of each pixel, as a color
function show(made) {
  const values = made.get(net.outputs[0]);
  const [labels, height, width] = net.values.get(net.outputs[0]).shape;
  const count = Math.max(2, labels);
  const color = (k) => (count === 2 ? [38 + 206 * k, 62 + 174 * k, 110 + 110 * k] : [0, 2, 4].map((c) => 128 + 110 * Math.cos((6.28 * k) / count + c)));
  const pixels = width * height;
  const seen = new Float64Array(count);
  const map = new Uint8Array(3 * pixels);
  for (let i = 0; i < pixels; i++) {
    let best = labels === 1 ? +(values[i] > 0) : 0;
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
  const most = seen.indexOf(Math.max(...seen));
  $("answer").textContent = `${names[most]} ${text((100 * seen[most]) / pixels, 1)} %`;
  $("results").replaceChildren(canvas, legend);
}
