// Builds elements and formats figures. Texts are only ever set as text, so that nothing a server wrote becomes markup.
export const $ = id => document.getElementById(id);

export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith('aria-') || name === 'role' || name === 'scope') element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

export const fill = (element, ...children) => element.replaceChildren(...children.filter(child => child !== null && child !== undefined));

const whole = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });
export const count = value => value === null || value === undefined ? '–' : whole.format(value);
// At most four digits and three decimals. Values below 0.001 keep two digits, so that only zero is shown as 0.
const short = value => Number(Math.abs(value) < 0.001 ? value.toPrecision(2) : Number(value.toPrecision(4)).toFixed(3));
export const figure = value => value === null || value === undefined ? '–' : Math.abs(value) >= 1000 ? whole.format(value) : String(short(value));

export function clock(seconds) {
  const all = Math.max(0, Math.floor(seconds)), two = number => String(number).padStart(2, '0');
  const [hours, minutes] = [Math.floor(all / 3600), Math.floor(all / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(all % 60)}` : minutes ? `${minutes}:${two(all % 60)}` : `${all} s`;
}

export function bytes(size) {
  const units = ['B', 'KiB', 'MiB', 'GiB'];
  let unit = 0;
  while (size >= 1024 && unit < 3) { size /= 1024; unit += 1; }
  return `${unit ? size.toFixed(1) : size} ${units[unit]}`;
}

// A tile with a number; `is_bad` colours it.
export const tile = (name, value, is_bad = false) => el('div', {}, el('b', { className: is_bad ? 'bad' : '' }, value), el('span', {}, name));

export function table(element, head, rows) {
  const cell = (value, first) => value instanceof Node && value.nodeName === 'TD' ? value : el(first ? 'th' : 'td', first ? { scope: 'row' } : {}, value);
  fill(element,
    el('thead', {}, el('tr', {}, ...head.map(name => el('th', { scope: 'col' }, name)))),
    el('tbody', {}, ...rows.map(row => el('tr', {}, ...row.map((value, index) => cell(value, index === 0))))));
}

// A heading with a table below it, or nothing if there are no rows. The elements around the rows stay, so that a table keeps the focus and
// how far it is scrolled.
export function titled(element, title, head, rows, className = '') {
  if (!rows.length) return fill(element);
  if (!element.firstChild) {
    element.append(el('h2'), el('div', { className: 'scroll', tabIndex: 0, role: 'group' }, el('table', { className })));
  }
  const [heading, around] = element.children;
  heading.textContent = title;
  around.setAttribute('aria-label', title);
  table(around.firstChild, head, rows);
}

export function problem(text) {
  $('problem').textContent = text;
  $('problem').hidden = !text;
}
