// The .1bit file of the page: its bytes, its graph, and its arrays. docs/format.md of onebit specifies all of it.

const TYPES = { U8: Uint8Array, I8: Int8Array, I32: Int32Array, I64: BigInt64Array, F32: Float32Array };
// integers of a field that has more than one: if all are equal they are written as one, but those of ALL
const LENGTHS = { kernel: 2, stride: 2, dilation: 2, padding: 4, extra: 2, size: 2, start: 3, stop: 3, step: 3, channels: 2 };
const ALL = ["shape", "axes", "times"];

// bytes -> {graph, nodes, mean, std}; a node has its fields as numbers and typed arrays
function readFile(file) {
  const start = 8 + new DataView(file.buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(file.subarray(8, start)));
  const graph = JSON.parse(header.__metadata__.onebit);
  const left = new Map();
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [first, last] = entry.data_offsets;
    left.set(name, new TYPES[entry.dtype](file.slice(start + first, start + last).buffer));
  }
  const nodes = [];
  let before = "input";
  for (const line of graph.nodes) {
    const [op, output, ...words] = line.split(" ");
    const node = { op, output, inputs: [before] };
    for (const word of words) {
      const [field, text] = word.split("=");
      const numbers = text ? text.split(",").map(Number) : [];
      if (field === "inputs") node.inputs = text.split(",");
      else if (field === "like") Object.assign(node, nodes.find((it) => it.output === text), { ...node });
      else if (left.has(field)) {
        const array = left.get(field);
        if (numbers[1]) [node.rows, node.terms] = numbers;
        const count = field === "signs" ? node.rows * ((node.terms + 7) >> 3) : size(numbers);
        node[field] = array.subarray(0, count);
        left.set(field, array.subarray(count));
      } else if (numbers.length > 1 || ALL.includes(field)) node[field] = numbers;
      else node[field] = LENGTHS[field] ? Array(LENGTHS[field]).fill(numbers[0]) : numbers[0];
    }
    nodes.push(node);
    before = output;
  }
  return { graph, nodes, mean: left.get("input.mean"), std: left.get("input.std") };
}
