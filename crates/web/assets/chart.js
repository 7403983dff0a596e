// Draws seconds of a run as lines, in the look of the report.
import { clock, el, figure } from './dom.js';

const SPACE = 'http://www.w3.org/2000/svg';
const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [640, 236, 56, 632, 36, 206];
const POINTS = 400;
// Width of a letter, roughly.
const LETTER = 8;

export function shape(name, attributes, text) {
  const element = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// Keeps the largest value of each part, so that peaks stay.
function thin(points) {
  if (points.length <= POINTS) return points;
  const size = Math.ceil(points.length / POINTS), kept = [];
  for (let at = 0; at < points.length; at += size) {
    kept.push(points.slice(at, at + size).reduce((a, b) => (b[1] ?? -1) > (a[1] ?? -1) ? b : a));
  }
  return kept;
}

function rounded(top) {
  if (top <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(top));
  return [1, 2, 2.5, 5, 10].map(step => step * power).find(step => step >= top);
}

// `series`: [{name, points: [[second, value or null]], look}], `marks`: [{at, text, look}].
export function chart(title, series, marks, until) {
  const svg = shape('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', 'aria-label': title });
  const thinned = series.map(one => ({ ...one, points: thin(one.points) }));
  const values = thinned.flatMap(one => one.points.map(point => point[1] ?? 0));
  const times = thinned.flatMap(one => one.points.map(point => point[0]));
  const from = times.length ? Math.min(...times) : 0, to = Math.max(until, from + 10), top = rounded(Math.max(0, ...values));
  const x = second => LEFT + (second - from) / (to - from) * (RIGHT - LEFT);
  const y = value => BOTTOM - value / top * (BOTTOM - TOP);
  for (const share of [0, 0.5, 1]) {
    svg.append(shape('line', { class: 'axis', x1: LEFT, x2: RIGHT, y1: y(top * share), y2: y(top * share) }));
    svg.append(shape('text', { x: LEFT - 6, y: y(top * share) + 4, 'text-anchor': 'end' }, figure(top * share)));
    const second = from + (to - from) * share;
    svg.append(shape('text', { x: x(second), y: HEIGHT - 8, 'text-anchor': share === 0 ? 'start' : share === 1 ? 'end' : 'middle' }, clock(second)));
  }
  const ends = [-Infinity, -Infinity];
  for (const { at, text, look } of marks.toSorted((a, b) => a.at - b.at).filter(mark => mark.at >= from && mark.at <= to)) {
    svg.append(shape('line', { class: look, x1: x(at), x2: x(at), y1: TOP, y2: BOTTOM }));
    // Two rows of texts. What fits into neither is in the table of faults and changes.
    const row = text ? ends.findIndex(end => end < x(at)) : -1;
    if (row >= 0) {
      ends[row] = x(at) + text.length * LETTER;
      svg.append(shape('text', { class: look === 'mark' ? 'bad' : 'changed', x: x(at) + 4, y: TOP - 5 - 15 * row }, text));
    }
  }
  for (const one of thinned) {
    let path = '', pen = 'M';
    for (const [second, value] of one.points) {
      if (value === null || value === undefined) { pen = 'M'; continue; }
      path += `${pen}${x(second).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = 'L';
    }
    svg.append(shape('path', { class: `line l${one.look}`, d: path || `M${LEFT} ${BOTTOM}` }));
  }
  const legend = el('div', { className: 'legend' }, ...series.map(one => {
    const last = one.points.findLast(point => point[1] !== null && point[1] !== undefined);
    return el('span', {}, el('i', { className: one.look === 3 ? 'c0' : `c${one.look}` }), `${one.name} ${figure(last?.[1])}`);
  }));
  return el('figure', {}, el('figcaption', {}, el('h3', {}, title), legend), svg);
}
