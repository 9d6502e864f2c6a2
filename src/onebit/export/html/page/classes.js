// A number per class: probabilities, as bars; of many classes the ten most probable. With several labels for each
// sample, every class has a probability of its own.

function show(made) {
  const logits = made.get(net.outputs[0]);
  const names = net.graph.classes || Array.from(logits, (_, k) => `${k}`);
  const best = logits.indexOf(Math.max(...logits));
  const powers = Array.from(logits, (x) => Math.exp(x - logits[best]));
  const sum = powers.reduce((a, b) => a + b, 0);
  const share = (k) => (info.several ? 100 / (1 + Math.exp(-logits[k])) : (100 * powers[k]) / sum);
  const chosen = info.several ? [...logits.keys()].filter((k) => logits[k] > 0) : [best];
  const text = chosen.map((k) => names[k]).join(", ") || "none";
  if ($("answer").textContent !== text) $("answer").textContent = text;

  let order = [...logits.keys()];
  if (order.length > 20) order = order.sort((a, b) => logits[b] - logits[a]).slice(0, 10);
  const bars = $("results").children;
  if (!bars.length) {
    $("results").className = "bars";
    for (const _ of order) $("results").append(element("div", {}, element("span"), element("div", {}, element("i")), element("b")));
  }
  order.forEach((k, row) => {
    Object.assign(bars[row], { hidden: false, className: chosen.includes(k) ? "bar best" : "bar" });
    const [name, bar, number] = bars[row].children;
    name.textContent = names[k];
    bar.firstChild.style.width = `${share(k)}%`;
    number.textContent = `${share(k).toFixed(1)} %`;
  });
}
