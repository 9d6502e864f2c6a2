// Smooth activations, in float32: each product and sum of two float32 numbers is rounded to one.

const horner = (numbers, x) => numbers.reduceRight((y, number) => fround(fround(y * x) + number));

const LOG2_E = fround(1.44269504);
const LN2_LOW = fround(-0.00021219444);
const EXP = Float32Array.of(0.499999981, 0.166665425, 0.0416672047, 0.00836667247, 0.00138824928);

// e^x - one, with `one` 0 or 1
function expLess(x, one) {
  const a = Math.min(Math.max(x, -80), 80);
  const n = fround(fround(fround(a * LOG2_E) + 12582912) - 12582912);
  const r = fround(fround(a - fround(n * 0.693359375)) - fround(n * LN2_LOW));
  const q = fround(r + fround(fround(r * r) * horner(EXP, r)));
  return fround(fround(2 ** n * q) + fround(2 ** n - one));
}

// torch rounds the results below these bounds to -0, whose sign is +1
const SILU_ZERO = fround(-88.722832);
const MISH_ZERO = fround(-102.87347);
const GELU_ZERO = fround(-5.5430403);
const GELU_TANH_ZERO = fround(-5.0613804);
const zeroBelow = (bound, x) => (x < bound ? -0 : x);

const activation = (one) => (node, x) => pointwise(real(x.shape), (v) => one(fround(v)));

OPS.sigmoid = activation((x) => 1 / fround(2 + expLess(-x, 1)));

OPS.tanh = activation((x) => {
  const e = expLess(2 * x, 1);
  return e / fround(e + 2);
});

OPS.silu = activation((v) => {
  const x = zeroBelow(SILU_ZERO, v);
  return x / fround(2 + expLess(-x, 1));
});

OPS.mish = activation((v) => {
  const x = zeroBelow(MISH_ZERO, v);
  const e = expLess(x < 20 ? x : 20, 0);
  const n = fround(e * fround(e + 2));
  return x * fround(n / fround(n + 2));
});

const TAIL = Float32Array.of(
  0.11962551, 0.120867616, 0.0989657246, 0.132243102, -0.0614000655, 0.215351326, -0.162699224, 0.0370460323);

OPS.gelu = activation((v) => {
  const x = zeroBelow(GELU_ZERO, v);
  const t = fround(1 / fround(1 + fround(fround(0.3) * Math.abs(x))));
  const tail = fround(expLess(fround(fround(x * x) * -0.5), 0) * fround(horner(TAIL, t) * t));
  return x * (x > 0 ? fround(1 - tail) : tail);
});

OPS.gelu_tanh = activation((v) => {
  const x = zeroBelow(GELU_TANH_ZERO, v);
  const slope = fround(fround(fround(x * x) * fround(0.0713548163)) + fround(1.59576912));
  return x / fround(2 + expLess(fround(-x * slope), 1));
});

OPS.hardswish = activation((x) => fround(x * Math.min(Math.max(fround(x + 3), 0), 6)) / 6);

OPS.sqrt = activation(Math.sqrt);

OPS.reciprocal = activation((x) => 1 / x);
