// Integers of few bits: rounded once, and clipped to the range from `least` to `most`.

function clipped({ least, most }, { shape }) {
  const form = least >= 0 && most < 256 ? Uint8Array : least >= -128 && most < 128 ? Int8Array : Int32Array;
  return { shape, bound: Math.max(-least, most), form };
}

// Sums and offsets are below 2^52, and so exact in doubles, before and after the division.
OPS.requantize = (node, ...inputs) => {
  const { multiplier, right_shift: shift, least, most } = node;
  const made = clipped(node, inputs[0]);
  const offset = Float64Array.from(node.offset, Number);
  const channels = offset.length;
  const unit = 2 ** -shift;
  const run = (...values) => {
    const y = fresh(made);
    const each = y.length / channels;
    for (let c = 0, i = 0; c < channels; c++) {
      const by = inputs.map((_, n) => multiplier[n * channels + c]);
      for (const stop = i + each; i < stop; i++) {
        let sum = offset[c];
        for (let n = 0; n < by.length; n++) sum += by[n] * values[n][i];
        const x = Math.floor(sum * unit);
        y[i] = x < least ? least : x > most ? most : x;
      }
    }
    return y;
  };
  return { ...made, run };
};

OPS.quantize = (node, x) =>
  pointwise(clipped(node, x), (v) => {
    if (v !== v) throw new Error("NaN cannot be rounded to an integer");
    return Math.max(node.least, Math.min(node.most, v + ROUND - ROUND));
  });
