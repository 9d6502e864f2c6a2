// Real weights, on the grid of their row, times integers. Products reach 2^48, and sums 2^63: more than a double holds.

const PART = 32;  // products whose sum is exact in a double
const MAX_EXACT = 2 ** 15;  // more terms than this are added in doubles, one sum of PART after the other
const HIGH = 2 ** 32;

function realWeights(node, x) {
  const { image, rows, columns, shape, groups, border, taps, each } = windowsOf(node, x);
  const made = real(shape);
  const { terms } = node;
  const turned = node.op.endsWith("transpose");  // long sums begin with the last tap
  const grids = Array.from({ length: node.rows }, (_, o) => onGrid(node.weight.subarray(o * terms, (o + 1) * terms), 0));
  if (turned) for (const grid of grids) grid.z = grid.z.map((_, k) => grid.z[(taps - 1 - ((k / each) | 0)) * each + (k % each)]);
  const whole = x.bound !== null && x.bound <= 2 ** 24;
  const [, height, width] = image;

  const run = (input) => {
    const { z, unit } = whole ? { z: input, unit: 1 } : onGrid(input, Math.abs(border));
    const y = fresh(made);
    const edge = whole ? border : border / unit + ROUND - ROUND || 0;
    const window = new Float64Array(terms);
    const outputs = node.rows / groups;
    for (let i = 0, pixel = 0; i < rows.made; i++) {
      for (let j = 0; j < columns.made; j++, pixel++) {
        for (let group = 0; group < groups; group++) {
          for (let tap = 0, k = 0; tap < taps; tap++) {
            const turn = turned ? taps - 1 - tap : tap;
            const row = rows.places[i * rows.taps + ((turn / columns.taps) | 0)];
            const column = columns.places[j * columns.taps + (turn % columns.taps)];
            for (let c = group * each; c < (group + 1) * each; c++) {
              window[k++] = row < 0 || column < 0 ? edge : z[(c * height + row) * width + column];
            }
          }
          for (let o = group * outputs; o < (group + 1) * outputs; o++) {
            const sum = fround(fround(product(window, grids[o].z)) * unit);
            y[o * rows.made * columns.made + pixel] = sum * grids[o].unit;
          }
        }
      }
    }
    return y;
  };
  return { ...made, run };
}

// The sum of a[k] · b[k], such that float32 of it is float32 of the exact sum
function product(a, b) {
  const exact = a.length <= MAX_EXACT;
  let [sum, high, low] = [0, 0, 0];
  for (let start = 0; start < a.length; start += PART) {
    let part = 0;
    for (let k = start; k < Math.min(start + PART, a.length); k++) part += a[k] * b[k];
    if (!exact) sum += part;
    else {
      const above = Math.floor(part / HIGH);
      high += above;
      low += part - above * HIGH;
    }
  }
  if (!exact) return sum;
  high += Math.floor(low / HIGH);
  low %= HIGH;
  if (Math.abs(high) >= 2 ** 20) {
    // too long for a double: the last 12 bits become one, which float32 rounds alike
    const rest = low % 4096;
    low += (rest && 2048) - rest;
  }
  return high * HIGH + low;
}

OPS.real_dense = OPS.real_conv = OPS.real_conv_transpose = realWeights;
