// One chart of curves over the message size, with a cursor that the pointer and the keyboard move.

const SVG = 'http://www.w3.org/2000/svg';
const FRAME = { width: 600, height: 380, left: 52, right: 572, top: 24, bottom: 344 };

function element(parent, name, attributes = {}, text = '') {
  const made = parent.namespaceURI === SVG || name === 'svg'
    ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== '') made.textContent = text;
  parent.append(made);
  return made;
}

// A point, by the shape that a curve has, so that curves stay apart without colour.
function mark(parent, curve, x, y) {
  const shapes = {
    circle: `M${x - 4} ${y}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z`,
    square: `M${x - 3.5} ${y - 3.5}h7v7h-7z`,
    diamond: `M${x} ${y - 4.8}l4.8 4.8l-4.8 4.8l-4.8 -4.8z`,
    triangle: `M${x} ${y - 4.8}l4.6 8h-9.2z`,
    inverted: `M${x} ${y + 4.8}l4.6 -8h-9.2z`,
  };
  return element(parent, 'path', { class: `mark ${curve.kind}`, d: shapes[curve.shape], style: `--colour:${curve.colour}` });
}

function polyline(points) {
  return points.map(([x, y], turn) => `${turn ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`).join('');
}

// Draws into `figure`. `quantity` says what of a row is drawn; `allowed` are lines that no curve can pass, each a label and
// points. `move` is called with the index of a size, or null, when the cursor is moved here.
function drawChart(figure, quantity, curves, allowed, sizes, move) {
  figure.replaceChildren();
  const caption = element(figure, 'figcaption', {}, `${quantity.title} `);
  element(caption, 'span', {}, quantity.hint);
  const box = `0 0 ${FRAME.width} ${FRAME.height}`;
  const label = `${quantity.title} over the message size. ${quantity.hint}. Arrow keys move between sizes.`;
  const svg = element(figure, 'svg', { viewBox: box, tabindex: '0', role: 'img', 'aria-label': label });
  const drawn = curves.map(curve => ({ ...curve, points: curve.rows.map(row => [row.bytes, quantity.of(row)]).filter(point => point[1] > 0) }));
  const all = [...drawn, ...allowed].flatMap(curve => curve.points);
  const xAxis = logAxis(sizes, 1.15, FRAME.left, FRAME.right);
  const yAxis = logAxis(all.map(point => point[1]), 1.2, FRAME.bottom, FRAME.top);
  if (!xAxis || !yAxis) {
    element(svg, 'text', { x: FRAME.left, y: FRAME.top + 20 }, 'nothing to show');
    return { show() {} };
  }
  for (const tick of decimalTicks(yAxis, 9)) {
    const y = yAxis.position(tick);
    element(svg, 'path', { class: 'grid', d: `M${FRAME.left} ${y}H${FRAME.right}` });
    element(svg, 'text', { x: FRAME.left - 7, y: y + 4, 'text-anchor': 'end' }, tick >= 1e4 ? `${tick / 1e3}k` : String(tick));
  }
  binaryTicks(xAxis, 8).forEach((tick, turn) => {
    const x = xAxis.position(tick);
    element(svg, 'path', { class: 'grid', d: `M${x} ${FRAME.top}V${FRAME.bottom + 5}` });
    // On a narrow screen there is room for every second one.
    const name = turn % 2 ? 'tick-more' : 'tick';
    element(svg, 'text', { class: name, x, y: FRAME.bottom + 24, 'text-anchor': 'middle' }, sizeWords(tick));
  });
  element(svg, 'path', { class: 'grid', d: `M${FRAME.left} ${FRAME.bottom}H${FRAME.right}` });
  const place = ([bytes, value]) => [xAxis.position(bytes), yAxis.position(value)];
  for (const line of allowed) {
    const points = line.points.map(place);
    element(svg, 'path', { class: 'curve allowed', d: polyline(points) });
    const [x, y] = quantity.labelAtEnd ? points.at(-1) : points[0];
    const anchor = quantity.labelAtEnd ? 'end' : 'start';
    element(svg, 'text', { class: 'allowed', x, y: y + quantity.labelBelow, 'text-anchor': anchor }, line.label);
  }
  for (const curve of drawn) {
    const points = curve.points.map(place);
    element(svg, 'path', { class: `curve ${curve.kind}`, 'data-name': curve.name, d: polyline(points), style: `--colour:${curve.colour}` });
    for (const [x, y] of points) mark(svg, curve, x, y).dataset.name = curve.name;
  }
  const cursor = element(svg, 'path', { class: 'cursor', d: '' });

  let at = null;
  svg.addEventListener('pointermove', event => {
    const bounds = svg.getBoundingClientRect();
    const x = (event.clientX - bounds.left) / bounds.width * FRAME.width;
    const away = sizes.map(size => Math.abs(xAxis.position(size) - x));
    move(away.indexOf(Math.min(...away)));
  });
  svg.addEventListener('keydown', event => {
    const last = sizes.length - 1;
    const steps = {
      ArrowRight: () => at === null ? 0 : Math.min(at + 1, last),
      ArrowLeft: () => at === null ? last : Math.max(at - 1, 0),
      Home: () => 0,
      End: () => last,
      Escape: () => null,
    };
    if (!(event.key in steps)) return;
    event.preventDefault();
    move(steps[event.key]());
  });
  return {
    show(index) {
      at = index;
      const x = index === null ? null : xAxis.position(sizes[index]);
      cursor.setAttribute('d', x === null ? '' : `M${x} ${FRAME.top}V${FRAME.bottom}`);
    },
  };
}
