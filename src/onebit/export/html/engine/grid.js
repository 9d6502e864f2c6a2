// Weights times windows of an image; what dense layers, convolutions and transposed convolutions share.

const ROUND = 1.5 * 2 ** 52;  // a double plus this, minus this, is rounded to an integer, ties to even

// Real numbers -> integers `z` within 2^24, and their `unit`: numbers[i] is about z[i] * unit
function onGrid(numbers, least) {
  const count = numbers.length;
  const z = new Float64Array(count);
  let largest = least;
  for (let i = 0; i < count; i++) largest = Math.max(largest, Math.abs(fround(numbers[i])));
  if (!Number.isFinite(largest)) return { z, unit: NaN };
  const p = (new Uint32Array(Float32Array.of(largest).buffer)[0] >>> 23) - 126;
  const power = 2 ** Math.min(126, 24 - p);
  for (let i = 0; i < count; i++) z[i] = fround(numbers[i]) * power + ROUND - ROUND;
  return { z, unit: 1 / power };
}

// The place in the image of each tap of each window along one axis, -1 outside: [window * taps + tap]
function axisPlaces(made, length, taps, stride, dilation, before, transposed) {
  const places = new Int32Array(made * taps);
  for (let i = 0, at = 0; i < made; i++) {
    for (let tap = 0; tap < taps; tap++, at++) {
      let place = transposed ? (i + before - tap * dilation) / stride : i * stride + tap * dilation - before;
      if (place < 0 || place >= length || place % 1) place = -1;
      places[at] = place;
    }
  }
  return places;
}

// The windows of a node over its input: `shape` of the output, and `row` and `column` places
function windowsOf(node, x) {
  const { kernel = [1, 1], stride = [1, 1], dilation = [1, 1], padding = [0, 0, 0, 0], extra = [0, 0] } = node;
  const transposed = node.op.endsWith("transpose");
  const image = x.shape.length === 3 ? x.shape : [x.shape[0], 1, 1];
  const axes = [0, 1].map((axis) => {
    const [length, taps, step, gap] = [image[axis + 1], kernel[axis], stride[axis], dilation[axis]];
    const [before, after] = [padding[2 * axis], padding[2 * axis + 1]];
    const span = gap * (taps - 1) + 1;
    const made = transposed
      ? (length - 1) * step + span + extra[axis] - before - after
      : Math.floor((length + before + after - span) / step) + 1;
    return { made, taps, span, places: axisPlaces(made, length, taps, step, gap, before, transposed) };
  });
  const [rows, columns] = axes;
  const shape = x.shape.length === 3 ? [node.rows, rows.made, columns.made] : [node.rows];
  const { groups = 1, padding_value: border = 0 } = node;
  return { image, rows, columns, shape, groups, border, taps: rows.taps * columns.taps, each: image[0] / groups };
}
