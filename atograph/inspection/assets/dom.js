'use strict';

// Making elements, and numbers as people read them. Text only ever becomes text: nothing here parses HTML.

/** An element: `--x` sets a custom property, `onclick` listens, all else is an attribute; strings become text nodes. */
function el(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(options)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith('--')) made.style.setProperty(key, value);
    else if (key.startsWith('on')) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? '' : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

const byId = (id) => document.getElementById(id);

/** `41.3`, `0.783`, `128`: three significant digits. */
function threeDigits(value) {
  if (!Number.isFinite(value) || value === 0) return String(value);
  const rounded = Number(value.toPrecision(3));
  const decimals = 2 - Math.floor(Math.log10(Math.abs(rounded)));
  return rounded.toFixed(Math.min(Math.max(decimals, 0), 6));
}

/** `272 K`, `41.3 M`. */
function count(value) {
  for (const [divisor, letter] of [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'K']]) {
    if (Math.abs(value) >= divisor) return `${threeDigits(value / divisor)}\u202f${letter}`;
  }
  return Number.isInteger(value) ? String(value) : threeDigits(value);
}

const whole = (value) => value.toLocaleString('en-US');

/** `30.0 %`; what is above zero never reads as nothing. */
function percent(share) {
  return share > 0 && share < 0.0005 ? '<\u202f0.1\u202f%' : `${(100 * share).toFixed(1)}\u202f%`;
}

const plural = (number, one, many = `${one}s`) => `${whole(number)} ${number === 1 ? one : many}`;

/** A thin bar; what it shows stands beside it as text, too. */
function bar(share, kind = '') {
  const part = Math.min(Math.max(share, 0), 1);
  return el('span', { class: `meter ${kind}`, 'aria-hidden': 'true', '--part': part });
}
