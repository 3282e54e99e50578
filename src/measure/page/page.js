// The page: which rows are shown, and how filters, curves, cursor and table follow each other.

const machines = JSON.parse(document.getElementById('data').textContent);
const at = id => document.getElementById(id);

// What can be chosen; each filter offers what the ones before it leave.
const FILTERS = [
  { key: 'ranks', title: 'Ranks', of: row => String(row.ranks) },
  { key: 'dtype', title: 'Type', of: row => row.dtype },
  { key: 'op', title: 'Operator', of: row => row.op },
  { key: 'mode', title: 'Mode', of: row => row.mode },
];
const QUANTITIES = [
  { id: 'time', title: 'Time, µs', hint: 'lower is better', of: row => row.time_us.p50, labelAtEnd: false, labelBelow: -6 },
  { id: 'busbw', title: 'Bus bandwidth, GB/s', hint: 'higher is better', of: row => row.busbw_gbps, labelAtEnd: true, labelBelow: -6 },
];
const NUMBERS = [
  { title: 'p50, µs', of: row => row.time_us.p50, least: true },
  { title: 'p99, µs', of: row => row.time_us.p99, least: true },
  { title: 'fastest repeat, µs', of: row => row.time_us.min, least: true },
  { title: 'bus bandwidth, GB/s', of: row => row.busbw_gbps, least: false },
  { title: 'host time of a call, µs', of: row => row.host_us, least: true },
];
const SHAPES = { auto: ['circle'], baseline: ['square', 'diamond', 'triangle', 'inverted'], variant: ['triangle', 'circle', 'diamond', 'square'] };

const KINDS = { auto: 'what the lane table chooses', baseline: 'a baseline', variant: 'one variant, asked for by name' };

const chosen = { machine: 0, numbers: 0 };
const hidden = new Set();

function select(parent, title, id, options, value, change) {
  const field = element(parent, 'label', { class: 'field' }, `${title} `);
  const made = element(field, 'select', { id });
  options.forEach(([key, text]) => element(made, 'option', { value: key }, text));
  made.value = value;
  made.addEventListener('change', () => change(made.value));
}

// The rows of the selection. Options that the machine lacks fall back to those with the most rows.
function selectRows() {
  let rows = machines[chosen.machine].rows;
  const options = {};
  for (const { key, of } of FILTERS) {
    const counts = new Map();
    for (const row of rows) counts.set(of(row), (counts.get(of(row)) ?? 0) + 1);
    options[key] = [...counts.keys()].sort((one, other) => one.localeCompare(other, 'en', { numeric: true }));
    if (!counts.has(chosen[key])) chosen[key] = options[key].reduce((most, option) => counts.get(option) > counts.get(most) ? option : most);
    rows = rows.filter(row => of(row) === chosen[key]);
  }
  return { rows, options };
}

// A curve a candidate: its fastest right row at each size. Myelon first, then baselines, then variants.
function curvesOf(rows) {
  const curves = new Map();
  for (const row of rows) {
    if (!curves.has(row.label)) curves.set(row.label, { name: row.label, kind: row.kind, best: new Map(), wrong: new Set() });
    const curve = curves.get(row.label), held = curve.best.get(row.bytes);
    if (row.is_wrong) curve.wrong.add(row.bytes);
    else if (!held || row.time_us.p50 < held.time_us.p50) curve.best.set(row.bytes, row);
  }
  const order = ['auto', 'baseline', 'variant'];
  const sorted = [...curves.values()].sort((one, other) => order.indexOf(one.kind) - order.indexOf(other.kind));
  for (const kind of order) {
    sorted.filter(curve => curve.kind === kind).forEach((curve, turn, alike) => {
      curve.rows = [...curve.best.values()].sort((one, other) => one.bytes - other.bytes);
      curve.shape = SHAPES[kind][turn % SHAPES[kind].length];
      curve.colour = kind === 'auto' ? 'var(--auto)' : kind === 'baseline' ? `var(--baseline-${turn % 4})`
        : `hsl(${Math.round(150 + 180 * turn / alike.length)} 45% 50%)`;
    });
  }
  return sorted;
}

function drawFilters(options, redraw) {
  const form = at('filters'), focused = document.activeElement?.id;
  form.replaceChildren();
  const name = machine => machines.filter(other => other.name === machine.name).length > 1 ? `${machine.name}; ${machine.baselines}` : machine.name;
  const names = machines.map((machine, turn) => [String(turn), name(machine)]);
  select(form, 'Machine', 'machine', names, String(chosen.machine), value => {
    chosen.machine = Number(value);
    redraw();
  });
  for (const { key, title } of FILTERS) {
    select(form, title, key, options[key].map(option => [option, option]), chosen[key], value => {
      chosen[key] = value;
      redraw();
    });
  }
  if (focused && form.querySelector(`[id="${CSS.escape(focused)}"]`)) at(focused).focus();
}

function drawLegend(curves, redraw) {
  const fieldset = at('curves'), focused = document.activeElement?.id;
  fieldset.querySelectorAll('label').forEach(label => label.remove());
  for (const curve of curves) {
    const label = element(fieldset, 'label', { title: KINDS[curve.kind] });
    const box = element(label, 'input', { type: 'checkbox', id: `curve-${curve.name.replaceAll(' ', '-')}` });
    box.checked = !hidden.has(curve.name);
    box.addEventListener('change', () => {
      if (box.checked) hidden.delete(curve.name);
      else hidden.add(curve.name);
      redraw();
    });
    const swatch = element(label, 'svg', { viewBox: '0 0 28 12', 'aria-hidden': 'true' });
    element(swatch, 'path', { class: `curve ${curve.kind} lit`, d: 'M1 6h26', style: `--colour:${curve.colour}` });
    mark(swatch, { ...curve, kind: 'lit' }, 14, 6);
    label.append(curve.name);
    const light = on => document.querySelectorAll(`figure [data-name="${CSS.escape(curve.name)}"]`).forEach(part => part.classList.toggle('lit', on));
    for (const [event, on] of [['pointerenter', true], ['focusin', true], ['pointerleave', false], ['focusout', false]]) {
      label.addEventListener(event, () => light(on));
    }
  }
  const variants = curves.filter(curve => curve.kind === 'variant').map(curve => curve.name);
  const button = at('variants'), isShown = variants.some(name => !hidden.has(name));
  button.hidden = !variants.length;
  button.textContent = isShown ? 'Hide variants' : 'Show variants';
  button.onclick = () => {
    for (const name of variants) {
      if (isShown) hidden.add(name);
      else hidden.delete(name);
    }
    redraw();
  };
  fieldset.append(button);
  if (focused && fieldset.querySelector(`[id="${CSS.escape(focused)}"]`)) at(focused).focus();
}

// The lines that no curve can pass, for each chart, and where they come from.
function allowedLines(machine, sizes) {
  const ranks = Number(chosen.ranks), factor = 2 * (ranks - 1) / ranks;
  const lines = { time: [], busbw: [] }, sources = [];
  if (machine.link && ranks > 1) {
    const { gbps, source } = machine.link;
    const ends = [sizes[0], sizes.at(-1)];
    lines.busbw.push({ label: `link, nominal: ${gbps} GB/s`, points: ends.map(bytes => [bytes, gbps]) });
    sources.push(`Link, nominal: ${gbps} GB/s in each direction. ${source}. A switch that adds (NVLink multicast) can pass it in bus bandwidth.`);
  }
  const floor = machine.floor?.times_us[ranks];
  if (floor && ranks > 1) {
    const points = floor.filter(([bytes]) => bytes >= sizes[0] && bytes <= sizes.at(-1));
    // The model's sizes are powers of two: there can be none among those that are shown.
    if (points.length) {
      lines.time.push({ label: 'floor (model)', points });
      lines.busbw.push({ label: '', points: points.map(([bytes, us]) => [bytes, bytes / us / 1e3 * factor]) });
    }
    sources.push(`Floor (model), not measured here: ${machine.floor.source}.`);
  }
  if (!sources.length) sources.push('Nothing is known of the links of this machine: name their rate with myelon-perf report --link-gbps.');
  return { lines, sources };
}

function details(row) {
  const parts = row.requested === row.variant ? [] : [row.variant];
  if (row.lanes) parts.push(`${row.lanes} × ${row.threads} threads`);
  for (const [name, value] of [['chunk', row.chunk && sizeWords(row.chunk)], ['stages', row.stages], ['slots', row.slots]]) {
    if (value) parts.push(`${name} ${value}`);
  }
  return parts.join(', ');
}

function drawReading(curves, size) {
  const reading = at('reading');
  reading.replaceChildren();
  if (size === undefined) return;
  element(reading, 'strong', {}, `${sizeWords(size)}, ${chosen.ranks} ranks`);
  const list = element(reading, 'ul');
  const here = curves.map(curve => [curve, curve.best.get(size)]).filter(([, row]) => row);
  here.sort(([, one], [, other]) => one.time_us.p50 - other.time_us.p50);
  for (const [curve, row] of here) {
    const item = element(list, 'li', { 'data-name': curve.name });
    element(item, 'span', { class: 'dot', style: `--colour:${curve.colour}` });
    const name = element(item, 'span', { class: 'name' }, `${curve.name} `);
    element(name, 'small', {}, details(row));
    element(item, 'span', { class: 'value' }, `${number(row.time_us.p50)} µs, ${number(row.busbw_gbps)} GB/s`);
  }
}

function drawTable(machine, curves, sizes) {
  const numbers = NUMBERS[chosen.numbers], table = at('table');
  table.replaceChildren();
  const baselines = machine.baselines ? `; ${machine.baselines}` : '';
  element(table, 'caption', {}, `${chosen.ranks} ranks, ${chosen.dtype} ${chosen.op}, ${chosen.mode}${baselines}: ${numbers.title}`);
  const head = element(element(table, 'thead'), 'tr');
  const hasAuto = curves.some(curve => curve.kind === 'auto'), hasBaseline = curves.some(curve => curve.kind === 'baseline');
  const titles = ['size', ...curves.flatMap(curve => curve.kind === 'auto' ? [curve.name, 'variant'] : [curve.name])];
  if (hasAuto && hasBaseline) titles.push('ratio');
  for (const title of titles) element(head, 'th', title === 'variant' ? { scope: 'col', class: 'word' } : { scope: 'col' }, title);
  const body = element(table, 'tbody');
  for (const size of sizes) {
    const line = element(body, 'tr');
    element(line, 'th', { scope: 'row' }, sizeWords(size));
    const values = curves.map(curve => curve.best.get(size)).map(row => row ? numbers.of(row) : null);
    const known = values.filter(value => value !== null);
    const best = numbers.least ? Math.min(...known) : Math.max(...known);
    curves.forEach((curve, turn) => {
      const value = values[turn];
      if (value !== null) element(line, 'td', value === best ? { class: 'best' } : {}, number(value));
      else if (curve.wrong.has(size)) element(line, 'td', { class: 'wrong' }, 'wrong');
      else element(line, 'td', {}, '-');
      if (curve.kind === 'auto') element(line, 'td', { class: 'word' }, curve.best.get(size)?.variant ?? '-');
    });
    if (hasAuto && hasBaseline) {
      const time = kind => Math.min(...curves.filter(curve => curve.kind === kind).map(curve => curve.best.get(size)?.time_us.p50 ?? Infinity));
      const ratio = time('baseline') / time('auto');
      element(line, 'td', {}, Number.isFinite(ratio) && ratio > 0 ? `${ratio.toFixed(2)}×` : '-');
    }
  }
}

function draw() {
  const machine = machines[chosen.machine];
  const { rows, options } = selectRows();
  const all = curvesOf(rows), curves = all.filter(curve => !hidden.has(curve.name));
  const sizes = [...new Set(rows.map(row => row.bytes))].sort((one, other) => one - other);
  at('about').textContent = machine.about;
  drawFilters(options, draw);
  drawLegend(all, draw);
  const { lines, sources } = allowedLines(machine, sizes);
  at('lines').replaceChildren();
  for (const source of sources) element(at('lines'), 'li', {}, source);
  // Myelon is drawn last, over the others.
  const drawn = [...curves].reverse();
  const move = index => {
    for (const chart of charts) chart.show(index);
    drawReading(curves, index === null ? undefined : sizes[index]);
  };
  const charts = QUANTITIES.map(quantity => drawChart(at(quantity.id), quantity, drawn, lines[quantity.id], sizes, move));
  move(null);
  drawTable(machine, curves, sizes);
}

NUMBERS.forEach(({ title }, turn) => element(at('numbers'), 'option', { value: turn }, title));
at('numbers').addEventListener('change', () => {
  chosen.numbers = Number(at('numbers').value);
  draw();
});
draw();
