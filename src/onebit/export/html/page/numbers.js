// Numbers: a field and a slider for each of few inputs, a text for many.

const FEW = 64;

function start() {
  const { graph, count, bytes } = net;
  const make = bytes ? Uint8Array : Float32Array;
  const form = $("fields");
  const samples = info.samples || [];
  const middle = samples[0] || Array(count).fill(bytes ? 128 : 0);
  const check = (numbers) => {
    const wrong = numbers.findIndex((x) => !Number.isFinite(Math.fround(x)) || (bytes && (x < 0 || x > 255 || x % 1)));
    if (numbers.length !== count) refuse(`Got ${text(numbers.length)} numbers, expected ${text(count)}`);
    else if (wrong >= 0) refuse(`Input ${wrong} is not ${bytes ? "a whole number from 0 to 255" : "a number"}`);
    else answer(make.from(numbers));
  };
  let fill;
  if (count > FEW || graph.input.shape.length > 1) {
    const shape = graph.input.shape.join(" × ");
    const area = element("textarea", { spellcheck: false, oninput: () => check(area.value.split(/[\s,;]+/).filter((word) => word).map(Number)) });
    form.append(element("label", {}, `${text(count)} numbers (${shape}), the last axis fastest, with commas or spaces between them`, area));
    fill = (numbers) => (area.value = numbers.join(", "));
  } else {
    const fields = Array.from(middle, (_, k) => {
      const of = samples.map((sample) => sample[k]);
      const [min, max] = bytes ? [0, 255] : [Math.min(-3, ...of), Math.max(3, ...of)];
      const step = bytes ? 1 : (max - min) / 200;
      const name = `Input ${k}`;
      const slider = element("input", { type: "range", min, max, step, ariaLabel: name });
      const field = element("input", { type: "number", step: bytes ? 1 : "any", ariaLabel: `${name}, as a number` });
      const read = () => check(fields.map((one) => (one.value === "" ? NaN : Number(one.value))));
      slider.oninput = () => {
        field.value = bytes ? slider.value : Number(slider.value).toPrecision(4);
        read();
      };
      field.oninput = () => {
        slider.value = field.value;
        read();
      };
      form.append(element("div", { className: "field" }, element("small", {}, name), slider, field));
      return Object.assign(field, { slider });
    });
    fill = (numbers) => fields.forEach((field, k) => (field.value = field.slider.value = numbers[k]));
  }
  form.onsubmit = () => false;
  const use = (numbers) => {
    fill(numbers);
    check(Array.from(numbers));
  };
  samples.forEach((numbers, k) => $("choices").append(element("button", { onclick: () => use(numbers) }, `Sample ${k + 1}`)));
  const draw = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(6.283185 * Math.random());
  const random = () => Array.from({ length: count }, () => (bytes ? Math.floor(256 * Math.random()) : +draw().toFixed(3)));
  $("choices").append(element("button", { onclick: () => use(random()) }, "Random numbers"));
  use(middle);
}
