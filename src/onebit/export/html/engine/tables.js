// One-bit weights times integers: the 16 sums of four inputs with every choice of signs are made once for each pixel,
// and four weights, which are the number of a sum, take one addition.

function oneBit(node, x) {
  const { image, rows, columns, shape, groups, border, taps, each } = windowsOf(node, x);
  const { scale, centre } = node;
  const most = node.terms * Math.max(x.bound, Math.abs(border));
  const made = x.bound === null || scale || centre ? real(shape) : { shape, bound: most };
  const fours = (each + 3) >> 2;
  const length = taps * fours;
  const numbers = quarters(node, each, fours);
  const [, height, width] = image;
  const pixels = height * width;
  const stored = Math.min(height, rows.span + 1);
  const perPixel = groups * fours * 16;
  const outside = stored * width * perPixel;

  const run = (input) => {
    const { z, unit } = x.bound === null ? onGrid(input, Math.abs(border)) : { z: input, unit: 1 };
    const y = fresh(made);
    // sums of the rows that the windows reach, and of a pixel of the border
    const sums = new Float64Array(outside + perPixel);
    const four = new Float64Array(4);
    const fill = (at, valueOf) => {
      for (let group = 0; group < groups; group++) {
        for (let c = 0; c < each; c += 4, at += 16) {
          for (let k = 0; k < 4; k++) four[k] = c + k < each ? valueOf(group * each + c + k) : 0;
          sums[at] = -(four[0] + four[1] + four[2] + four[3]);
          for (let k = 0, half = 1; k < 4; k++, half *= 2) {
            for (let n = 0; n < half; n++) sums[at + half + n] = sums[at + n] + 2 * four[k];
          }
        }
      }
    };
    if (border) fill(outside, () => (x.bound === null ? border / unit : border) || 0);
    const rowHeld = new Int32Array(stored).fill(-1);
    const hold = (row) => {
      const slot = row % stored;
      if (rowHeld[slot] !== row) {
        rowHeld[slot] = row;
        for (let column = 0; column < width; column++) {
          fill((slot * width + column) * perPixel, (c) => z[c * pixels + row * width + column]);
        }
      }
      return slot * width * perPixel;
    };
    const places = new Int32Array(length);
    const outputs = node.rows / groups;
    for (let i = 0, pixel = 0; i < rows.made; i++) {
      const starts = Array.from(rows.places.subarray(i * rows.taps, (i + 1) * rows.taps), (row) => row < 0 ? -1 : hold(row));
      for (let j = 0; j < columns.made; j++, pixel++) {
        for (let group = 0; group < groups; group++) {
          let k = 0;
          for (const start of starts) {
            for (let tap = 0; tap < columns.taps; tap++) {
              const column = columns.places[j * columns.taps + tap];
              let at = (start < 0 || column < 0 ? outside : start + column * perPixel) + group * fours * 16;
              for (let four = 0; four < fours; four++, at += 16) places[k++] = at;
            }
          }
          let total = 0;
          if (centre) for (const at of places) total += sums[at + 15];
          total = fround(fround(total) * unit);
          for (let o = group * outputs; o < (group + 1) * outputs; o++) {
            let sum = addUp(sums, places, numbers, o * length, length);
            if (made.bound === null) {
              sum = fround(fround(sum) * unit);
              if (scale) sum = fround(sum * scale[o]);
              if (centre) sum += fround(total * centre[o]);
            }
            y[o * rows.made * columns.made + pixel] = sum;
          }
        }
      }
    }
    return y;
  };
  return { ...made, run };
}

function addUp(sums, places, numbers, from, length) {
  let sum = 0;
  for (let k = 0; k < length; k++) sum += sums[places[k] + numbers[from + k]];
  return sum;
}

// The weights as numbers of four bits: [output][tap][four channels]
function quarters(node, each, fours) {
  const perRow = (node.terms + 7) >> 3;
  const taps = node.terms / each;
  const numbers = new Uint8Array(node.rows * taps * fours);
  for (let o = 0, at = 0; o < node.rows; o++) {
    for (let tap = 0; tap < taps; tap++, at += fours) {
      for (let c = 0; c < each; c++) {
        const k = tap * each + c;
        numbers[at + (c >> 2)] |= ((node.signs[o * perRow + (k >> 3)] >> (k & 7)) & 1) << (c & 3);
      }
    }
  }
  return numbers;
}

OPS.dense = OPS.conv = OPS.conv_transpose = oneBit;
