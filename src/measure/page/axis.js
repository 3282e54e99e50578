'use strict';
// Logarithmic axes and numbers for people. Knows nothing of results.

// An axis that holds all positive `values`, widened by the factor `margin`, mapped to `from`..`to`, which may descend.
function logAxis(values, margin, from, to) {
  const positive = values.filter(value => value > 0 && Number.isFinite(value));
  if (!positive.length) return null;
  let low = Math.min(...positive), high = Math.max(...positive);
  const factor = low === high ? Math.max(margin, 2) : margin;
  low /= factor;
  high *= factor;
  const position = value => from + Math.log(value / low) / Math.log(high / low) * (to - from);
  return { low, high, position };
}

// Powers of two on the axis: every first, second, fourth and so on, `most` at most.
function binaryTicks(axis, most) {
  const first = Math.ceil(Math.log2(axis.low) - 1e-9), last = Math.floor(Math.log2(axis.high) + 1e-9);
  let stride = 1;
  while ((last - first) / stride + 1 > most) stride *= 2;
  const ticks = [];
  for (let power = first; power <= last; power += stride) ticks.push(2 ** power);
  return ticks;
}

// 1, 2 and 5 of each decade where there is room for them, else 1 and 3, else 1.
function decimalTicks(axis, most) {
  const first = Math.floor(Math.log10(axis.low)), last = Math.ceil(Math.log10(axis.high));
  const of = digits => {
    const ticks = [];
    for (let power = first; power <= last; power++) {
      for (const digit of digits) {
        const tick = Number(`${digit}e${power}`);
        if (tick >= axis.low && tick <= axis.high) ticks.push(tick);
      }
    }
    return ticks;
  };
  return [[1, 2, 5], [1, 3], [1]].map(of).find((ticks, turn) => ticks.length <= most || turn === 2);
}

// `1.5 MiB`.
function sizeWords(bytes) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let turn = 0;
  while (bytes >= 1024 && turn < units.length - 1) {
    bytes /= 1024;
    turn++;
  }
  return `${Number(bytes.toFixed(2))} ${units[turn]}`;
}

// Three significant digits, which is what repeats on another day can confirm.
function number(value) {
  if (value >= 99.95) return value.toFixed(0);
  return value >= 9.995 ? value.toFixed(1) : value.toFixed(2);
}
