// Operations on each number, with parameters of its channel.

function pointwise(made, one) {
  const count = size(made.shape);
  const each = count / (made.shape[0] ?? 1);
  const run = (x) => {
    const y = fresh(made);
    for (let c = 0, i = 0; i < count; c++) for (const stop = i + each; i < stop; i++) y[i] = one(x[i], c);
    return y;
  };
  return { ...made, run };
}

function ofTwo(made, one) {
  const run = (a, b) => {
    const y = fresh(made);
    for (let i = 0; i < y.length; i++) y[i] = one(a[i], b[i]);
    return y;
  };
  return { ...made, run };
}

// in doubles, rounded once; to multiply by 1 and to add -0 changes no number
OPS.affine = ({ scale, shift }, x) => {
  const made = real(x.shape);
  const [channels = 1] = x.shape;
  const [by, plus] = [scale || new Float32Array(channels).fill(1), shift || new Float32Array(channels).fill(-0)];
  const run = (v) => {
    const y = fresh(made);
    const each = y.length / channels;
    for (let c = 0, i = 0; c < channels; c++) for (const stop = (c + 1) * each; i < stop; i++) y[i] = v[i] * by[c] + plus[c];
    return y;
  };
  return { ...made, run };
};

OPS.threshold = ({ threshold, direction }, x) =>
  pointwise({ shape: x.shape, bound: 1, sign: true }, (v, c) =>
    (direction[c] > 0 ? v >= threshold[c] : v <= threshold[c]) ? 1 : -1);

OPS.sign = ({ shift }, x) =>
  pointwise({ shape: x.shape, bound: 1, sign: true }, (v, c) => {
    if (v !== v) throw new Error("NaN has no sign");
    return v >= (shift ? shift[c] : 0) ? 1 : -1;
  });

OPS.relu = (node, { shape, bound }) => {
  const run = (v) => {
    const y = fresh({ shape, bound });
    for (let i = 0; i < y.length; i++) y[i] = v[i] < 0 ? 0 : v[i];
    return y;
  };
  return { shape, bound, run };
};

OPS.prelu = ({ slope }, x) =>
  pointwise(real(x.shape), (v, c) => (v > 0 ? v : fround(v) * slope[c]));

OPS.hardtanh = (node, { shape, bound }) =>
  pointwise({ shape, bound: bound && 1 }, (v) => (v < -1 ? -1 : v > 1 ? 1 : v));

OPS.clamp = ({ low, high }, x) =>
  pointwise(real(x.shape), (v) => {
    const y = fround(v);
    return low && y < low[0] ? low[0] : high && y > high[0] ? high[0] : y;
  });

OPS.add = (node, a, b) =>
  a.bound === null || b.bound === null
    ? ofTwo(real(a.shape), (v, w) => fround(v) + fround(w))
    : ofTwo({ shape: a.shape, bound: a.bound + b.bound }, (v, w) => v + w);

OPS.multiply = (node, a) => ofTwo(real(a.shape), (v, w) => fround(v) * fround(w));
