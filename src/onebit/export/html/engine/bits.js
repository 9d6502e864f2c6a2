// One-bit weights times ±1, 32 at once: the sum of n products is n - 2 · (number of bits that differ).

function xnor(node, x) {
  const { image, rows, columns, shape, groups, border, taps, each } = windowsOf(node, x);
  const { scale } = node;
  const made = scale ? real(shape) : { shape, bound: node.terms };
  const words = (each + 31) >> 5;
  const length = taps * words;
  const weights = new Int32Array(node.rows * length);
  const perRow = (node.terms + 7) >> 3;
  for (let o = 0; o < node.rows; o++) {
    for (let k = 0; k < node.terms; k++) {
      const c = k % each;
      const bit = (node.signs[o * perRow + (k >> 3)] >> (k & 7)) & 1;
      weights[o * length + ((k / each) | 0) * words + (c >> 5)] |= bit << (c & 31);
    }
  }
  const [channels, height, width] = image;
  const pixels = height * width;
  const perPixel = groups * words;

  const run = (input) => {
    const y = fresh(made);
    const bits = new Int32Array(pixels * perPixel);
    for (let c = 0; c < channels; c++) {
      const word = ((c / each) | 0) * words + ((c % each) >> 5);
      for (let pixel = 0; pixel < pixels; pixel++) {
        if (input[c * pixels + pixel] > 0) bits[pixel * perPixel + word] |= 1 << (c % each & 31);
      }
    }
    const window = new Int32Array(length);
    const counted = new Int32Array(length);  // 0 for a border of zeros, which counts as nothing
    const outputs = node.rows / groups;
    for (let i = 0, pixel = 0; i < rows.made; i++) {
      for (let j = 0; j < columns.made; j++, pixel++) {
        for (let group = 0; group < groups; group++) {
          let terms = 0;
          for (let a = 0, k = 0; a < rows.taps; a++) {
            for (let b = 0; b < columns.taps; b++) {
              const row = rows.places[i * rows.taps + a];
              const column = columns.places[j * columns.taps + b];
              const inside = row >= 0 && column >= 0;
              if (inside || border) terms += each;
              for (let word = 0; word < words; word++, k++) {
                const tail = word === words - 1 && each & 31 ? (1 << (each & 31)) - 1 : -1;
                window[k] = inside ? bits[(row * width + column) * perPixel + group * words + word] : border > 0 ? tail : 0;
                counted[k] = inside || border ? -1 : 0;
              }
            }
          }
          for (let o = group * outputs; o < (group + 1) * outputs; o++) {
            const sum = terms - 2 * different(window, counted, weights, o * length);
            y[o * rows.made * columns.made + pixel] = scale ? fround(sum) * scale[o] : sum;
          }
        }
      }
    }
    return y;
  };
  return { ...made, run };
}

function different(window, counted, weights, from) {
  let count = 0;
  for (let k = 0; k < window.length; k++) {
    let v = (window[k] ^ weights[from + k]) & counted[k];
    v -= (v >>> 1) & 0x55555555;
    v = (v & 0x33333333) + ((v >>> 2) & 0x33333333);
    count += Math.imul((v + (v >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
  }
  return count;
}

OPS.dense = OPS.conv = OPS.conv_transpose = (node, x) => (x.sign && !node.centre ? xnor : oneBit)(node, x);
