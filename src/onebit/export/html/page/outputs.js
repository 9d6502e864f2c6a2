// Outputs that are not logits of classes: the numbers of each, under its name.
function showNumbers(made) {
  const { output } = net.graph;
  const named = typeof output === "string" ? [["Output", output]] : Array.isArray(output) ? output.map((name) => [name, name]) : Object.entries(output);
  const format = (x) => (Math.abs(x) >= 1e6 || (x && Math.abs(x) < 1e-3) ? x.toExponential(3) : text(x, 4));
  const list = element("dl");
  for (const [key, name] of named) {
    const [numbers, { shape }] = [made.get(name), net.values.get(name)];
    const shown = Array.from(numbers.subarray(0, 24), format).join("  ");
    const title = shape.length ? `${key} (${shape.join(" × ")})` : key;
    list.append(element("div", {}, element("dt", {}, title), element("dd", {}, shown + (numbers.length > 24 ? " …" : ""))));
  }
  const first = made.get(named[0][1]);
  $("answer").textContent = named.length === 1 && first.length === 1 ? format(first[0]) : `${text([...made.values()].reduce((sum, { length }) => sum + length, 0))} numbers`;
  $("results").replaceChildren(list);
}
