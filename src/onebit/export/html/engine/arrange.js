// Operations that move or repeat numbers.

const same = (x, shape) => ({ ...x, shape });
const strides = (shape) => shape.map((_, axis) => size(shape.slice(axis + 1)));

// where the elements of an array of this shape are, in order, if its axes have these strides
function placesOf(shape, steps, start = 0) {
  let places = Int32Array.of(start);
  shape.forEach((length, axis) => {
    const more = new Int32Array(places.length * length);
    for (let i = 0; i < more.length; i++) more[i] = places[(i / length) | 0] + (i % length) * steps[axis];
    places = more;
  });
  return places;
}

function pick(made, places) {
  const run = (x) => {
    const y = fresh(made);
    for (let i = 0; i < y.length; i++) y[i] = x[places[i]];
    return y;
  };
  return { ...made, run };
}

// ±1 or integers if all are, else reals
function merged(values, shape) {
  if (values.some((x) => x.bound === null)) return real(shape);
  const [{ form }] = values;
  return {
    shape,
    bound: Math.max(...values.map((x) => x.bound)),
    sign: values.every((x) => x.sign),
    form: values.every((x) => x.form === form) ? form : undefined,
  };
}

OPS.flatten = (node, x) => ({ ...same(x, [size(x.shape)]), run: (numbers) => numbers });

OPS.reshape = (node, x) => ({ ...same(x, node.shape), run: (numbers) => numbers });

OPS.permute = ({ axes }, x) => {
  const shape = axes.map((axis) => x.shape[axis]);
  const steps = strides(x.shape);
  return pick(same(x, shape), placesOf(shape, axes.map((axis) => steps[axis])));
};

OPS.repeat = ({ times }, x) => {
  const steps = strides(x.shape);
  const split = x.shape.flatMap((length, axis) => [length, times[axis]]);
  const shape = x.shape.map((length, axis) => length * times[axis]);
  return pick(same(x, shape), placesOf(split, steps.flatMap((step) => [step, 0])));
};

OPS.slice = ({ start = [0, 0, 0], stop, step = [1, 1, 1] }, x) => {
  const steps = strides(x.shape);
  const shape = stop.map((end, axis) => Math.ceil((end - start[axis]) / step[axis]));
  const first = start.reduce((place, from, axis) => place + from * steps[axis], 0);
  return pick(same(x, shape), placesOf(shape, steps.map((length, axis) => length * step[axis]), first));
};

OPS.take = ({ axis, indices }, x) => {
  const steps = strides(x.shape);
  const shape = x.shape.map((length, k) => (k === axis ? indices.length : length));
  const places = placesOf(shape, steps.map((step, k) => (k === axis ? 0 : step)));
  const inner = size(shape.slice(axis + 1));
  for (let i = 0; i < places.length; i++) places[i] += indices[((i / inner) | 0) % indices.length] * steps[axis];
  return pick(same(x, shape), places);
};

OPS.pad = ({ channels = [0, 0], padding = [0, 0, 0, 0], value = 0 }, x) => {
  const [top, bottom, left, right] = padding;
  const shape = [x.shape[0] + channels[0] + channels[1], x.shape[1] + top + bottom, x.shape[2] + left + right];
  const made = merged([x, { bound: 1, sign: value !== 0, form: value < 0 ? Int32Array : x.form }], shape);
  const steps = strides(shape);
  const places = placesOf(x.shape, steps, channels[0] * steps[0] + top * steps[1] + left);
  const run = (numbers) => {
    const y = fresh(made).fill(value);
    for (let i = 0; i < places.length; i++) y[places[i]] = numbers[i];
    return y;
  };
  return { ...made, run };
};

OPS.concat = (node, ...inputs) => {
  const channels = inputs.reduce((sum, x) => sum + x.shape[0], 0);
  const made = merged(inputs, [channels, ...inputs[0].shape.slice(1)]);
  const run = (...parts) => {
    const y = fresh(made);
    let at = 0;
    for (const part of parts) {
      y.set(part, at);
      at += part.length;
    }
    return y;
  };
  return { ...made, run };
};
