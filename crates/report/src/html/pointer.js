// Shows what the lines say where the pointer or the finger is. Without it the page lacks nothing but that.
'use strict';
const figure = value => value === undefined ? '–' : String(Number(value.toPrecision(4)));
const clock = seconds => {
  const whole = Math.floor(seconds), two = number => String(number).padStart(2, '0');
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : minutes ? `${minutes}:${two(whole % 60)}` : `${whole} s`;
};
const percentile = nines => `${Number((100 - 100 * 10 ** -nines).toPrecision(6))} %`;
const nearest = (points, at) => {
  let [low, high] = [0, points.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < at) low = middle; else high = middle;
  }
  return at - points[low]?.[0] < points[high]?.[0] - at ? points[low] : points[high];
};
for (const element of document.querySelectorAll('figure[data-chart]')) {
  const chart = JSON.parse(element.dataset.chart), svg = element.querySelector('svg');
  const [left, right, top, bottom] = chart.plot, [from, to] = chart.x;
  const line = svg.appendChild(document.createElementNS(svg.namespaceURI, 'line'));
  line.setAttribute('class', 'pointer');
  line.setAttribute('y1', top);
  line.setAttribute('y2', bottom);
  const tip = element.appendChild(document.createElement('div'));
  tip.className = 'tip';
  const hide = () => { tip.style.display = line.style.display = 'none'; };
  const show = event => {
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale;
    if (x < left - 8 || x > right + 8) return hide();
    const wanted = from + (x - left) / (right - left) * (to - from);
    const found = chart.series.map(series => nearest(series.points, wanted)).filter(Boolean);
    if (!found.length) return hide();
    const at = found.reduce((a, b) => Math.abs(a[0] - wanted) <= Math.abs(b[0] - wanted) ? a : b)[0];
    const place = left + (at - from) / (to - from) * (right - left);
    line.setAttribute('x1', place);
    line.setAttribute('x2', place);
    const rows = chart.series.map((series, index) => {
      const point = nearest(series.points, at), row = document.createElement('div'), mark = document.createElement('i');
      mark.className = `c${index % chart.colours + 1}`;
      const value = point && Math.abs(point[0] - at) <= chart.reach ? point[1] : undefined;
      row.append(mark, `${series.name} ${figure(value)}`);
      return row;
    });
    const head = document.createElement('b');
    head.textContent = chart.time ? clock(at) : chart.load ? figure(at) : percentile(at);
    tip.replaceChildren(head, ...rows);
    tip.style.display = 'block';
    line.style.display = 'inline';
    const middle = box.left - element.getBoundingClientRect().left + place / scale;
    const wide = tip.offsetWidth, room = element.clientWidth;
    tip.style.left = `${Math.min(Math.max(middle < room / 2 ? middle + 10 : middle - wide - 10, 0), room - wide)}px`;
  };
  svg.addEventListener('pointermove', show);
  svg.addEventListener('pointerdown', show);
  svg.addEventListener('pointerleave', event => { if (event.pointerType === 'mouse') hide(); });
  hide();
}
