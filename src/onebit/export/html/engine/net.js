// A net that runs: `const net = openNet(bytes of a .1bit file)`, `net.run(numbers of one sample)`.
//
// A value is described by {shape, bound, sign, form}: `bound` is the largest magnitude of integers, null for real numbers;
// `sign` is true if all are +1 or -1. Its numbers are an array of the type `form`, by default an Int32Array or a
// Float32Array, whose elements round what is stored to float32. All other sums are doubles: exact for integers up to 2^53.

const { fround } = Math;
const size = (shape) => shape.reduce((product, length) => product * length, 1);
const real = (shape) => ({ shape, bound: null });
const fresh = ({ shape, bound, form }) => new (form || (bound === null ? Float32Array : Int32Array))(size(shape));

const finite = (numbers, what) => {
  if (!numbers.every(Number.isFinite)) throw new Error(`${what} are NaN or infinite`);
  return numbers;
};

// operation -> (node, description of each input) -> description of its output, with `run(numbers of each input)`
const OPS = {};

function openNet(file) {
  const { graph, nodes, mean, std } = readFile(file);
  const { shape, coding, dtype } = graph.input;
  const bytes = dtype !== "float32";
  const input = { shape, bound: bytes && coding !== "standardise" ? 255 : null };
  const each = size(shape) / shape[0];
  const code = (numbers) => {
    const coded = fresh(input);
    numbers.forEach((x, i) => {
      const c = (i / each) | 0;
      coded[i] = coding === "integer" ? 2 * x - 255 : coding === "standardise" ? fround(x - mean[c]) / std[c] : x;
    });
    return coded;
  };

  const values = new Map([["input", input]]);
  const lastUse = new Map();
  nodes.forEach((node, index) => {
    node.inputs.forEach((name) => lastUse.set(name, index));
    node.made = OPS[node.op](node, ...node.inputs.map((name) => values.get(name)));
    values.set(node.output, node.made);
  });
  const { output } = graph;
  const outputs = [...new Set(typeof output === "string" ? [output] : Object.values(output))];

  // Other types would run in silence: floats from 0 to 1 for bytes, and bytes for floats
  const type = bytes ? Uint8Array : Float32Array;
  const check = (numbers) => {
    if (!(numbers instanceof type)) throw new Error(`expected a ${type.name}, got ${numbers?.constructor.name}`);
    if (numbers.length !== size(shape)) throw new Error(`got ${numbers.length} numbers, expected ${size(shape)}`);
    if (!bytes) finite(numbers, "inputs");
  };

  // A Uint8Array or a Float32Array of one sample -> Map from the name of each output to its Float32Array
  const run = (numbers) => {
    check(numbers);
    const held = new Map([["input", code(numbers)]]);
    nodes.forEach((node, index) => {
      held.set(node.output, node.made.run(...node.inputs.map((name) => held.get(name))));
      for (const name of node.inputs) if (lastUse.get(name) === index && !outputs.includes(name)) held.delete(name);
    });
    return new Map(outputs.map((name) => [name, finite(Float32Array.from(held.get(name)), "outputs")]));
  };
  return { graph, nodes, values, outputs, count: size(shape), bytes, run };
}
