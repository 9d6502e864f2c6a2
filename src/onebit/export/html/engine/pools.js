// The largest number or the average of each window of an image, channel by channel.

function pool(node, x, made, first, combine, finish) {
  const { rows, columns, shape } = windowsOf({ ...node, rows: x.shape[0] }, x);
  const [, height, width] = x.shape;
  const run = (input) => {
    const y = fresh({ ...made, shape });
    for (let c = 0, at = 0; c < shape[0]; c++) {
      for (let i = 0; i < rows.made; i++) {
        for (let j = 0; j < columns.made; j++) {
          let [value, inside] = [first, 0];
          for (let a = 0; a < rows.taps; a++) {
            const row = rows.places[i * rows.taps + a];
            for (let b = 0; b < columns.taps; b++) {
              const column = columns.places[j * columns.taps + b];
              if (row < 0 || column < 0) continue;
              value = combine(value, input[(c * height + row) * width + column]);
              inside++;
            }
          }
          y[at++] = finish(value, inside);
        }
      }
    }
    return y;
  };
  return { ...made, shape, run };
}

// + 0 makes -0 a 0
OPS.max_pool = (node, x) => pool(node, x, x, -Infinity, Math.max, (value) => value + 0);

OPS.average_pool = (node, x) => {
  const whole = x.bound !== null;
  const taps = node.kernel[0] * node.kernel[1];
  const made = whole && node.sums ? { bound: taps * x.bound } : { bound: null };
  const add = whole ? (sum, v) => sum + v : (sum, v) => fround(sum + v);
  const finish = node.sums ? (sum) => sum : (sum, inside) => fround(sum) / (node.count_padding ? taps : inside);
  return pool(node, x, made, 0, add, finish);
};

OPS.adaptive_average_pool = ({ size: lengths }, x) => {
  const [channels, height, width] = x.shape;
  const made = real([channels, ...lengths]);
  const [down, across] = lengths.map((count, axis) =>
    Array.from({ length: count }, (_, i) => [
      Math.floor((i * x.shape[axis + 1]) / count),
      Math.ceil(((i + 1) * x.shape[axis + 1]) / count),
    ]));
  const run = (input) => {
    const y = fresh(made);
    let at = 0;
    for (let c = 0; c < channels; c++) {
      for (const [top, bottom] of down) {
        // down the rows, then across
        const column = (j) => {
          let sum = input[(c * height + top) * width + j];
          for (let i = top + 1; i < bottom; i++) sum += input[(c * height + i) * width + j];
          return sum;
        };
        for (const [left, right] of across) {
          let sum = column(left);
          for (let j = left + 1; j < right; j++) sum += column(j);
          y[at++] = fround(sum) / ((bottom - top) * (right - left));
        }
      }
    }
    return y;
  };
  return { ...made, run };
};
