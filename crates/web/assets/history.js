// Earlier runs: sorting and filtering, report, comparison, download and deletion.
import { $, bytes, count, el, figure, fill, problem, titled } from './dom.js';
import * as query from './query.js';
import { get, send } from './server.js';

// Heading, key to sort by, and the text of a cell.
const COLUMNS = [
  ['run', run => run.run, run => run.run],
  ['verdict', run => run.verdict ?? '', run => el('td', { className: { PASS: 'good', FAIL: 'bad' }[run.verdict] ?? 'unsure', title: run.verdict_reason ?? '' }, run.interrupted ? 'interrupted' : run.verdict ?? '–')],
  ['started', run => run.started_at ?? '', run => (run.started_at ?? '–').replace('T', ' ').slice(5, 16)],
  ['sessions', run => run.clients ?? -1, run => count(run.clients)],
  ['queries ok', run => run.queries_ok ?? -1, run => run.queries_total === null ? '–' : `${count(run.queries_ok)} of ${count(run.queries_total)}`],
  ['lost', run => run.tokens_lost ?? -1, run => count(run.tokens_lost)],
  ['ttft_ms p99', run => run.p99_ttft_ms ?? -1, run => figure(run.p99_ttft_ms)],
  ['e2el_ms p99', run => run.p99_e2el_ms ?? -1, run => figure(run.p99_e2el_ms)],
];
let runs = [], sides = new Map(), sorted = { column: 2, is_down: true }, directory = '';

export const prepare = state => { directory = state.results; };

export async function load() {
  try {
    runs = await get('/api/history');
    sides = new Map([...sides].filter(([name]) => runs.some(run => run.run === name)));
    draw();
  } catch (error) {
    problem(error.message);
  }
}

function draw() {
  const wanted = $('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = run => [run.run, run.verdict, run.started_at, run.verdict_reason].join(' ').toLowerCase();
  const shown = runs.filter(run => wanted.every(word => text(run).includes(word)));
  const key = COLUMNS[sorted.column][1];
  const compare = (a, b) => typeof key(a) === 'number' ? key(a) - key(b) : String(key(a)).localeCompare(String(key(b)));
  shown.sort((a, b) => compare(a, b) * (sorted.is_down ? -1 : 1));
  const heads = COLUMNS.map(([name], column) => {
    const is_sorted = column === sorted.column;
    const button = el('button', { type: 'button', className: 'link' }, `${name}${is_sorted ? sorted.is_down ? ' ↓' : ' ↑' : ''}`);
    button.addEventListener('click', () => {
      sorted = { column, is_down: is_sorted ? !sorted.is_down : true };
      draw();
      $('runs').querySelectorAll('th button')[column].focus();
    });
    return el('th', { scope: 'col', 'aria-sort': is_sorted ? sorted.is_down ? 'descending' : 'ascending' : 'none' }, button);
  });
  fill($('runs'),
    el('thead', {}, el('tr', {}, ...heads, el('th', { scope: 'col' }, 'compare'), el('th', { scope: 'col' }, ''))),
    el('tbody', {}, ...shown.map(row)));
  $('history-note').textContent = `${count(shown.length)} of ${count(runs.length)} runs in ${directory}`;
  note();
}

function row(run) {
  const cells = COLUMNS.map(([, , show], column) => {
    const value = show(run);
    return value instanceof Node ? value : el(column === 0 ? 'th' : 'td', column === 0 ? { scope: 'row' } : {}, value);
  });
  const side = el('select', { 'aria-label': `Side of ${run.run}`, disabled: !run.can_compare },
    ...['', 'baseline', 'candidate'].map(name => el('option', { value: name, selected: (sides.get(run.run) ?? '') === name }, name || '–')));
  side.addEventListener('change', () => { if (side.value) sides.set(run.run, side.value); else sides.delete(run.run); note(); });
  const button = (name, act) => {
    const made = el('button', { type: 'button', 'aria-label': `${name} ${run.run}` }, name);
    made.addEventListener('click', () => act(run));
    return made;
  };
  const report = button('Report', open);
  const queries = button('Queries', one => attempt(() => query.list(one.run)));
  report.disabled = queries.disabled = !run.can_compare;
  return el('tr', {}, ...cells, el('td', {}, side), el('td', {}, el('span', { className: 'row' }, report, queries, button('Files', files), button('Delete', ask))));
}

const on = side => [...sides].filter(([, of]) => of === side).map(([name]) => name);
function note() {
  const [baseline, candidate] = [on('baseline').length, on('candidate').length];
  $('compare').disabled = !baseline || !candidate;
  $('compare').textContent = baseline || candidate ? `Compare ${baseline} with ${candidate}` : 'Compare';
}

async function attempt(act) {
  try {
    problem('');
    await act();
  } catch (error) {
    problem(error.message);
    $('problem').scrollIntoView();
  }
}

const VERDICTS = { 0: 'no regression', 98: 'too much noise to decide', 99: 'regression', 104: 'refused' };
$('compare').addEventListener('click', () => attempt(async () => {
  const { exit_code, text, messages } = await send('POST', '/api/compare', { baseline: on('baseline'), candidate: on('candidate') });
  $('comparison').hidden = false;
  $('comparison').textContent = `compare: ${VERDICTS[exit_code] ?? 'failed'}\n\n${text}${messages}`;
  $('comparison').focus();
}));

const open = run => attempt(async () => {
  const { path } = await send('POST', '/api/links', { run: run.run });
  $('report').src = path;
  $('report').title = `Report of ${run.run}`;
  $('report').hidden = false;
  $('report').scrollIntoView();
  $('report').focus();
});

function files(run) {
  titled($('files'), `Files of ${run.run}`, ['file', 'size', ''], run.files.map(file => {
    const download = el('button', { type: 'button', 'aria-label': `Download ${file.name}` }, 'Download');
    download.addEventListener('click', () => attempt(async () => {
      const { path } = await send('POST', '/api/links', { run: run.run, file: file.name });
      const link = el('a', { href: path, download: file.name });
      document.body.append(link);
      link.click();
      link.remove();
    }));
    return [file.name, bytes(file.bytes), el('td', {}, download)];
  }), 'list');
  $('files').scrollIntoView();
}

let asked = null;
function ask(run) {
  asked = run;
  $('confirm-text').textContent = `Delete all ${run.files.length} files of ${run.run}?`;
  $('confirm').showModal();
}
$('confirm-no').addEventListener('click', () => $('confirm').close());
$('confirm-yes').addEventListener('click', () => attempt(async () => {
  $('confirm').close();
  await send('DELETE', `/api/history/${encodeURIComponent(asked.run)}`);
  fill($('files'));
  query.hide();
  $('comparison').hidden = true;
  $('report').hidden = true;
  await load();
}));
$('filter').addEventListener('input', draw);
$('reload').addEventListener('click', load);
