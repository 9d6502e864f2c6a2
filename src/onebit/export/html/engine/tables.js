// One-bit weights times integers: the 16 sums of four inputs with every choice of signs are made once for each pixel.
// Four weights are the number of such a sum, and 16 weights, four for each of four outputs, are a word.

function oneBit(node, x) {
  const { image, rows, columns, shape, groups, border, taps, each } = windowsOf(node, x);
  const { scale, centre } = node;
  const most = node.terms * Math.max(x.bound, Math.abs(border));
  const made = x.bound === null || scale || centre ? real(shape) : { shape, bound: most };
  const fours = (each + 3) >> 2;
  const length = taps * fours;
  const words = wordsOf(node, each, fours, groups);
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
    const edge = (x.bound === null ? border / unit + ROUND - ROUND : border) || 0;
    if (border) fill(sums, outside, Float64Array.of(edge), 0, 0, groups, each);
    const rowHeld = new Int32Array(stored).fill(-1);
    const hold = (row) => {
      const slot = row % stored;
      if (rowHeld[slot] !== row) {
        rowHeld[slot] = row;
        for (let column = 0; column < width; column++) {
          fill(sums, (slot * width + column) * perPixel, z, row * width + column, pixels, groups, each);
        }
      }
      return slot * width * perPixel;
    };
    const places = new Int32Array(length);
    const outputs = node.rows / groups;
    const together = (outputs + 3) >> 2;
    const totals = new Float64Array(4 * together);
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
          addUp(sums, places, words, group * together * length, totals);
          for (let k = 0; k < outputs; k++) {
            const o = group * outputs + k;
            let sum = totals[k];
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

// The sums of one pixel, whose channels are z[first], z[first + step], …
function fill(sums, at, z, first, step, groups, each) {
  for (let group = 0; group < groups; group++) {
    for (let c = 0; c < each; c += 4, at += 16) {
      const from = first + (group * each + c) * step;
      const left = each - c;
      const [p, q, r, s] = [z[from], left > 1 ? z[from + step] : 0, left > 2 ? z[from + 2 * step] : 0, left > 3 ? z[from + 3 * step] : 0];
      sums[at] = -(p + q + r + s);
      sums[at + 1] = sums[at] + 2 * p;
      for (let n = at; n < at + 2; n++) sums[n + 2] = sums[n] + 2 * q;
      for (let n = at; n < at + 4; n++) sums[n + 4] = sums[n] + 2 * r;
      for (let n = at; n < at + 8; n++) sums[n + 8] = sums[n] + 2 * s;
    }
  }
}

// The sums of all outputs of a group, four at a time
function addUp(sums, places, words, from, totals) {
  for (let o = 0; o < totals.length; o += 4, from += places.length) {
    let [a, b, c, d] = [0, 0, 0, 0];
    for (let k = 0; k < places.length; k++) {
      const at = places[k];
      const word = words[from + k];
      a += sums[at + (word & 15)];
      b += sums[at + ((word >> 4) & 15)];
      c += sums[at + ((word >> 8) & 15)];
      d += sums[at + (word >> 12)];
    }
    totals[o] = a;
    totals[o + 1] = b;
    totals[o + 2] = c;
    totals[o + 3] = d;
  }
}

// The weights as words: [four outputs of a group][tap][four channels]
function wordsOf(node, each, fours, groups) {
  const perRow = (node.terms + 7) >> 3;
  const taps = node.terms / each;
  const outputs = node.rows / groups;
  const together = (outputs + 3) >> 2;
  const words = new Uint16Array(groups * together * taps * fours);
  for (let o = 0; o < node.rows; o++) {
    const within = o % outputs;
    const from = (((o / outputs) | 0) * together + (within >> 2)) * taps * fours;
    for (let k = 0; k < node.terms; k++) {
      const c = k % each;
      const bit = (node.signs[o * perRow + (k >> 3)] >> (k & 7)) & 1;
      words[from + ((k / each) | 0) * fours + (c >> 2)] |= bit << (4 * (within & 3) + (c & 3));
    }
  }
  return words;
}

OPS.dense = OPS.conv = OPS.conv_transpose = oneBit;
