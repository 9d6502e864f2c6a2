// One output with a number per class: probabilities, as bars; of many classes the ten most probable
function show(made) {
  const logits = made.get(net.outputs[0]);
  const most = Math.max(...logits);
  const powers = Array.from(logits, (x) => Math.exp(x - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  const names = net.graph.classes || powers.map((_, k) => `${k}`);
  let order = [...powers.keys()];
  const best = powers.indexOf(1);
  if (order.length > 20) order = order.sort((a, b) => powers[b] - powers[a]).slice(0, 10);
  $("answer").textContent = names[best];
  if (!$("results").children.length) {
    $("results").className = "bars";
    for (const _ of order) $("results").append(element("div", { className: "bar" }, element("span"), element("div", {}, element("i")), element("b")));
  }
  order.forEach((k, row) => {
    Object.assign($("results").children[row], { hidden: false, className: k === best ? "bar best" : "bar" });
    const [name, bar, number] = $("results").children[row].children;
    const share = (100 * powers[k]) / sum;
    name.textContent = names[k];
    bar.firstChild.style.width = `${share}%`;
    number.textContent = `${share.toFixed(1)} %`;
  });
}
