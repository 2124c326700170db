// Decode latent values that sliders, or a point in a plane, set. A decoder is a multilayer perceptron with its weights in
// the page, or pictures that were decoded before.
for (const place of document.querySelectorAll(".explorer")) {
  const content = JSON.parse(place.dataset.content);
  const title = place.dataset.title;
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const numbers = (text) => new Float32Array(bytes(text).buffer);
  const functions = {
    identity: (x) => x,
    tanh: Math.tanh,
    relu: (x) => Math.max(0, x),
    sigmoid: (x) => 1 / (1 + Math.exp(-x)),
    softplus: (x) => (x > 20 ? x : Math.log1p(Math.exp(x))),
    silu: (x) => x / (1 + Math.exp(-x)),
    elu: (x) => (x > 0 ? x : Math.expm1(x)),
  };
  const make = (name, options = {}, parent = null) => {
    const element = Object.assign(document.createElement(name), options);
    parent?.append(element);
    return element;
  };
  const isPictures = content.kind === "pictures";
  const layers = isPictures ? [] : content.layers.map((layer) => ({
    size: layer.size, weight: numbers(layer.weight), bias: numbers(layer.bias), apply: functions[layer.activation],
  }));
  const units = Math.min(8, isPictures ? content.size[0] : layers[0].size[1]);
  const z = new Array(isPictures ? units : layers[0].size[1]).fill(0);
  const levels = isPictures ? bytes(content.levels) : null;
  let moved = 0;  // the unit that was moved last, of pictures that were decoded before

  const decode = (values) => {
    if (isPictures) {
      const [, steps, height, width] = content.size;
      const share = (values[moved] + content.range) / (2 * content.range);
      const step = Math.min(steps - 1, Math.max(0, Math.round(share * (steps - 1))));
      const start = (moved * steps + step) * height * width;
      return Array.from(levels.subarray(start, start + height * width), (level) => level / 255);
    }
    return layers.reduce((input, { size: [rows, columns], weight, bias, apply }) => {
      const output = new Array(rows);
      for (let row = 0; row < rows; row++) {
        let sum = bias[row];
        for (let column = 0; column < columns; column++) sum += weight[row * columns + column] * input[column];
        output[row] = apply(sum);
      }
      return output;
    }, values);
  };
  place.decode = decode;

  make("h3", { textContent: `Decoder of ${title}` }, place);
  const controls = make("div", { className: "controls" }, place);
  const [height, width] = isPictures ? content.size.slice(2) : content.shape;
  const canvas = height ? make("canvas", { width, height }, controls) : null;
  const body = canvas ? null : make("table", {}, controls).createTBody();
  if (canvas) {
    canvas.style.width = "180px";
    canvas.setAttribute("role", "img");
  }
  const sliders = make("div", {}, controls);

  const draw = () => {
    const values = decode(z);
    const at = z.slice(0, units).map((value) => value.toFixed(2)).join(", ");
    if (canvas) {
      const low = Math.min(0, ...values), high = Math.max(1, ...values);
      const context = canvas.getContext("2d");
      const image = context.createImageData(width, height);
      values.forEach((value, index) => {
        const level = Math.round((255 * (value - low)) / (high - low));
        image.data.set([level, level, level, 255], 4 * index);
      });
      context.putImageData(image, 0, 0);
      canvas.setAttribute("aria-label", `Mean of x at z = ${at}, decoder of ${title}`);
      return;
    }
    body.replaceChildren();
    values.forEach((value, index) => {
      const row = body.insertRow();
      const scaled = content.scale.length ? value * content.scale[index] + content.shift[index] : value;
      make("th", { scope: "row", textContent: content.names[index] ?? `x[${index}]` }, row);
      make("td", { className: "number", textContent: scaled.toPrecision(5) }, row);
    });
  };

  const inputs = [];
  const show = (unit, value) => {
    z[unit] = Math.min(content.range, Math.max(-content.range, value));
    inputs[unit].value = z[unit];
    inputs[unit].nextElementSibling.textContent = z[unit].toFixed(2);
  };
  const set = (unit, value) => {
    // Pictures that were decoded before have all other units at 0.
    if (isPictures) inputs.forEach((_, other) => show(other, 0));
    show(unit, value);
    moved = unit;
    if (point) {
      point.style.left = `${(50 * (z[0] + content.range)) / content.range}%`;
      point.style.top = `${(50 * (content.range - z[1])) / content.range}%`;
    }
    draw();
  };
  for (let unit = 0; unit < units; unit++) {
    const label = make("label", {}, sliders);
    make("span", { textContent: `z[${unit}]` }, label);
    const input = make("input", { type: "range", min: -content.range, max: content.range, step: 0.05, value: 0 }, label);
    make("output", { textContent: "0.00" }, label);
    input.addEventListener("input", () => set(unit, Number(input.value)));
    inputs.push(input);
  }
  let point = null;
  if (!isPictures && units > 1) {
    const plane = make("div", { className: "plane", tabIndex: 0 }, controls);
    plane.setAttribute("role", "group");
    plane.setAttribute("aria-label", `Plane of z[0] and z[1], decoder of ${title}; the arrow keys move the point`);
    point = make("span", {}, plane);
    const follow = (event) => {
      const box = plane.getBoundingClientRect();
      set(0, content.range * ((2 * (event.clientX - box.left)) / box.width - 1));
      set(1, content.range * (1 - (2 * (event.clientY - box.top)) / box.height));
    };
    plane.addEventListener("pointerdown", (event) => { plane.setPointerCapture(event.pointerId); follow(event); });
    plane.addEventListener("pointermove", (event) => { if (event.buttons) follow(event); });
    const steps = { ArrowLeft: [0, -0.1], ArrowRight: [0, 0.1], ArrowDown: [1, -0.1], ArrowUp: [1, 0.1] };
    plane.addEventListener("keydown", (event) => {
      if (!(event.key in steps)) return;
      const [unit, change] = steps[event.key];
      set(unit, z[unit] + change);
      event.preventDefault();
    });
  }
  place.hidden = false;
  place.closest("section").hidden = false;
  set(0, 0);
}
