// Outputs that are not logits of classes: the numbers of each, under its name.

function show(made) {
  const { output } = net.graph;
  const named = typeof output === "string" ? [["Output", output]] : Array.isArray(output) ? output.map((name) => [name, name]) : Object.entries(output);
  const list = element("dl");
  for (const [key, name] of named) {
    const numbers = made.get(name);
    const { shape } = net.values.get(name);
    const shown = Array.from(numbers.subarray(0, 60), (x) => element("span", {}, `${+x.toPrecision(5)}`));
    const more = numbers.length > 60 ? [element("span", {}, `and ${text(numbers.length - 60)} more`)] : [];
    const title = shape.length ? `${key} (${shape.join(" × ")})` : key;
    list.append(element("div", {}, element("dt", {}, title), element("dd", { className: "row" }, ...shown, ...more)));
  }
  const [one] = made.values();
  $("answer").textContent = named.length === 1 && one.length === 1 ? `${+one[0].toPrecision(5)}` : "";
  $("results").replaceChildren(list);
}
