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

// in doubles, rounded once
OPS.affine = ({ scale, shift }, x) =>
  pointwise(real(x.shape), !scale ? (v, c) => v + shift[c] : !shift ? (v, c) => v * scale[c] : (v, c) => v * scale[c] + shift[c]);

OPS.threshold = ({ threshold, direction }, x) =>
  pointwise({ shape: x.shape, bound: 1, sign: true }, (v, c) =>
    (direction[c] > 0 ? v >= threshold[c] : v <= threshold[c]) ? 1 : -1);

OPS.sign = ({ shift }, x) =>
  pointwise({ shape: x.shape, bound: 1, sign: true }, (v, c) => {
    if (v !== v) throw new Error("NaN has no sign");
    return v >= (shift ? shift[c] : 0) ? 1 : -1;
  });

OPS.relu = (node, { shape, bound }) => pointwise({ shape, bound }, (v) => (v < 0 ? 0 : v));

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
