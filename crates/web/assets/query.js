// Single queries of an earlier run: a list of the slowest and the broken ones, and the timeline of one of them, drawn as in the report.
import { $, count, el, figure, fill, problem, titled } from './dom.js';
import { shape } from './chart.js';
import { get } from './server.js';

// Edges of the drawing.
const [LEFT, RIGHT, AXIS] = [8, 892, 42];
let run = null;

// Shows the queries of this run.
export async function list(name) {
  run = name;
  const queries = await get(path());
  $('queries').hidden = false;
  $('queries-title').textContent = `Queries of ${run}`;
  fill($('query-detail'));
  titled($('query-list'), 'The slowest and the broken queries', ['query', 'kept as', 'session:number', 'status', 'due', 'late, ms', 'tokens', 'lost'], queries.map(query => {
    const show = el('button', { type: 'button', className: 'link' }, query.query_id);
    show.addEventListener('click', () => inspect(query.query_id));
    return [show, query.kept_as, `${query.session_index}:${query.query_num}`, query.status, `${query.due_s.toFixed(2)} s`, figure(query.slowness_ms), count(query.tokens_received), count(query.tokens_lost)];
  }), 'list');
  $('queries-note').textContent = queries.length ? '' : 'This run has no timelines. The figures of each query are in its table.';
  $('queries').scrollIntoView();
  $('queries-title').focus();
}

export function hide() {
  run = null;
  $('queries').hidden = true;
}

const path = (...parts) => ['/api/history', ...[run, 'queries', ...parts].map(encodeURIComponent)].join('/');

async function inspect(wanted) {
  try {
    problem('');
    const { query, text } = await get(path(wanted));
    fill($('query-detail'),
      el('h3', { id: 'query-title', tabIndex: -1 }, `Query ${query.query_id}`),
      query.kept_as ? timeline(query) : null,
      el('pre', { tabIndex: 0, role: 'group', 'aria-label': 'The query as text' }, text));
    $('query-detail').scrollIntoView();
    $('query-title').focus();
  } catch (error) {
    problem(error.message);
    $('problem').scrollIntoView();
  }
}

$('query-form').addEventListener('submit', event => {
  event.preventDefault();
  inspect(new FormData($('query-form')).get('query').trim());
});

function timeline(query) {
  const token_at = token => query.due_s + token.ms / 1e3;
  const end = query.done_s ?? query.ended_s;
  // What happened long before the query would leave no room for it.
  const first = Math.min(query.due_s, ...query.notes.map(note => note.at_s));
  const from = Math.max(first, query.due_s - Math.max(query.ended_s - query.due_s, 0.1));
  const to = Math.max(end, from + 0.001, query.tokens.length ? token_at(query.tokens.at(-1)) : end);
  const x = at => LEFT + Math.min(Math.max((at - from) / (to - from), 0), 1) * (RIGHT - LEFT);
  const svg = shape('svg', { viewBox: '0 0 900 86', role: 'img', 'aria-label': `Timeline of query ${query.query_id}` });
  const upright = (at, look, top, bottom, title) => {
    if (at === null || at < from || at > to) return;
    const line = shape('line', { class: look, x1: x(at), x2: x(at), y1: top, y2: bottom });
    if (title) line.append(shape('title', {}, title));
    svg.append(line);
  };
  const level = (look, start, stop) => svg.append(shape('line', { class: look, x1: x(start), x2: x(stop), y1: AXIS, y2: AXIS }));
  if (query.sent_s !== null && query.ideal_e2el_ms !== null) {
    const ideal = query.sent_s + query.ideal_e2el_ms / 1e3;
    svg.append(shape('rect', { class: 'ideal', x: x(query.sent_s), y: 30, width: Math.max(x(ideal) - x(query.sent_s), 1), height: 24 }));
  }
  level('axis', from, to);
  for (const [start, stop] of without_socket(query)) level('down', start, stop);
  for (const token of query.tokens) upright(token_at(token), token.replay ? 'replay' : 'token', 32, 52, `token ${token.seq}`);
  for (const fault of query.faults) upright(fault.began_s, 'fault', 14, 62, fault.fault);
  const calls = [['due', query.due_s], ['accepted', query.accepted_s], [query.done_s === null ? 'given up' : 'terminator', end]];
  for (const [name, at] of calls) {
    upright(at, 'call', 24, 60, name);
    if (name !== 'accepted') svg.append(shape('text', { x: x(at), y: 12, 'text-anchor': x(at) > 450 ? 'end' : 'start' }, name));
  }
  for (const note of query.notes) upright(note.at_s, 'trouble', 20, 64, `${note.event.replaceAll('_', ' ')} ${note.text}`);
  svg.append(shape('text', { x: LEFT, y: 80 }, `${from.toFixed(3)} s`), shape('text', { x: RIGHT, y: 80, 'text-anchor': 'end' }, `+${figure((to - from) * 1e3)} ms`));
  return el('div', { className: 'timeline', tabIndex: 0, role: 'group', 'aria-label': 'Timeline' }, svg);
}

// The times without a socket.
function without_socket(query) {
  const times = [];
  let lost = null;
  for (const note of query.notes) {
    if (['socket_lost', 'socket_cut', 'socket_ended'].includes(note.event)) lost ??= note.at_s;
    if (['reconnected', 'socket_opened'].includes(note.event) && lost !== null) {
      times.push([lost, note.at_s]);
      lost = null;
    }
  }
  return lost === null ? times : [...times, [lost, query.ended_s]];
}
