// The run that goes on, from the same events as every other output of a run.
import { $, clock, count, el, figure, fill, problem, table, tile, titled } from './dom.js';
import { chart } from './chart.js';
import { send } from './server.js';

// Seconds in the charts.
const SHOWN = 1800;
const METRICS = ['ttft_ms', 'itl_ms', 'e2el_ms', 'delivery_ms'];
const DELIVERY = ['tokens_lost', 'tokens_duplicated', 'tokens_reordered'];

let run, is_dirty = false;
const empty = () => ({ state: 'idle', stops: 0, config: null, id: '', plan: null, status: null, second: null, seconds: [], faults: [], amendments: [], health: new Map(), verdict: null, end: null, missed: 0 });
run = empty();

export function take(event) {
  switch (event.type) {
    case 'page': page(event); break;
    case 'run': run = { ...empty(), state: run.state, stops: run.stops, config: event.config, id: event.run_id, started: event.started_at }; break;
    case 'plan': run.plan = event; break;
    case 'status': run.status = event; break;
    case 'second':
      run.second = event;
      run.seconds.push(event);
      if (run.seconds.length > SHOWN) run.seconds.shift();
      break;
    case 'health': run.health.set(event.target, event); break;
    case 'fault': {
      const before = run.faults.findIndex(fault => fault.fault === event.fault && fault.at_s === event.at_s);
      if (before < 0) run.faults.push({ ...event, begun: event.t }); else run.faults[before] = { ...event, begun: run.faults[before].begun };
      break;
    }
    case 'amendment': run.amendments.push(event); break;
    case 'verdict': run.verdict = event; break;
  }
  draw();
}

function page(event) {
  if (event.missed) run.missed += event.missed;
  if (!event.state) return;
  if (event.state === 'running' && event.run_id === null) run = empty();
  run.state = event.state;
  run.stops = event.stops ?? run.stops;
  if (event.state === 'ended') {
    run.end = event;
    answer('');
  }
}

export const id = () => run.id;
export const prepare = () => draw();
export const shown = () => draw();

function draw() {
  if (is_dirty) return;
  is_dirty = true;
  requestAnimationFrame(() => {
    is_dirty = false;
    if (!$('now').hidden) render();
  });
}

function render() {
  const is_on = run.state === 'running' || run.state === 'stopping';
  header(is_on);
  $('controls').hidden = !is_on;
  if (is_on) controls();
  $('live').hidden = !run.second && !run.status;
  $('look-back').hidden = !run.end || !run.verdict;
  $('messages').hidden = !run.end?.messages;
  $('messages').textContent = run.end?.messages ?? '';
  if ($('live').hidden) return;
  tiles();
  charts();
  latency();
  thresholds();
  titled($('failures'), 'Errors by kind', ['kind', 'count'], (run.status?.failures ?? []).map(one => [one.name, count(one.count)]), 'words');
  happenings();
  generators();
  resources();
}

function header(is_on) {
  const status = run.status, last = run.verdict;
  const [name, reason] = last ? [last.interrupted ? 'INTERRUPTED' : last.verdict, last.verdict_reason]
    : run.end ? [run.end.exit_code === 104 ? 'Refused' : 'The run ended without a verdict', run.end.messages ? 'Its messages are below.' : '']
      : !is_on ? ['No run', 'Start a run on the page Start, or with streamstress run --web.']
        : status?.verdict ? [`${status.verdict} so far`, status.verdict_reason] : ['Running', 'No query has ended yet.'];
  const verdict = last ? last.verdict : status?.verdict;
  $('verdict').textContent = name;
  $('verdict').className = !is_on && !last && !run.end ? '' : { PASS: 'good', FAIL: 'bad' }[verdict] ?? (verdict ? 'unsure' : '');
  $('reason').textContent = reason;
  $('run-id').textContent = run.id;
  document.title = run.id ? `${name} · ${run.id}` : 'streamstress';
  const config = run.config;
  const facts = config ? [
    config.embedded ? 'embedded stack' : `${config.api_url} · ${config.wsproxy_url}`,
    config.workload?.scenario && `scenario ${config.workload.scenario}`,
    run.plan && `${run.plan.model} model`,
    config.queries && `${count(config.queries)} queries per session`,
    config.seed !== undefined && `seed ${config.seed}`,
  ].filter(Boolean) : [];
  $('facts').textContent = facts.join(' · ');
  $('phase').textContent = is_on ? phase() : '';
}

const elapsed = () => Math.max(run.second?.t + 1 || 0, run.status?.t || 0);

function phase() {
  const plan = run.plan, at = elapsed();
  if (!plan) return '';
  const index = plan.phases.findLastIndex(one => one.start_s <= at);
  const now = plan.phases[index];
  const parts = [plan.end_s === null ? `${clock(at)} elapsed` : `${clock(at)} of ${clock(plan.end_s)}`];
  if (run.state === 'stopping') parts.push('stopping: waiting for running streams');
  else if (plan.end_s !== null && at >= plan.end_s) parts.push('the schedule is over: waiting for running streams');
  else if (now) {
    const target = now.from === now.target ? figure(now.target) : `${figure(now.from)} to ${figure(now.target)}`;
    parts.push(`stage ${index + 1} of ${plan.phases.length}, ${now.name}: ${target} ${plan.unit}`);
    if (now.end_s !== null) parts.push(`${clock(now.end_s - at)} left`);
  }
  return parts.join(' · ');
}

function controls() {
  $('stop').textContent = run.stops === 0 ? 'Stop' : run.stops === 1 ? 'Stop at once' : 'Stopping at once';
  $('stop').disabled = run.stops > 1;
  $('stop').classList.toggle('danger', run.stops === 1);
  const is_open = run.plan?.unit === 'arrivals per second';
  $('amend').hidden = !run.plan?.amendable || run.stops > 0;
  $('amend-unit').textContent = is_open ? 'Arrivals/s' : 'Sessions';
  $('inject').hidden = run.stops > 0 || run.config?.embedded === true;
}

function tiles() {
  // The verdict has the sums of the whole run; the last status is older.
  const status = run.verdict ? { ...run.status, ...run.verdict } : run.status;
  const second = run.verdict ? { sessions: 0, tokens_received: 0 } : run.second;
  const target = second?.target === null || second?.target === undefined ? '' : ` of ${figure(second.target)}`;
  const sessions = run.plan?.unit === 'sessions' ? `${count(second?.sessions)}${target}` : count(second?.sessions);
  const error = status?.e2el_error_ms?.p99;
  const failed = status ? status.queries - status.queries_ok : 0;
  fill($('tiles'),
    tile('sessions', sessions),
    tile('tokens/s', count(second?.tokens_received)),
    tile('queries', count(status?.queries)),
    tile('queries failed', count(failed), failed > 0),
    ...DELIVERY.map(key => tile(key.replace('_', ' '), count(status?.[key]), status?.[key] > 0)),
    tile('reconnects', status ? `${count(status.reconnects_ok)} of ${count(status.reconnect_attempts)}` : '–'),
    tile('measurement error', error === null || error === undefined ? '–' : `${figure(error)} ms`),
    run.missed ? tile('events that this page missed', count(run.missed), true) : null,
    status?.events_dropped ? tile('events dropped', count(status.events_dropped), true) : null);
}

function charts() {
  const marks = [
    ...(run.plan?.phases ?? []).slice(1).map(one => ({ at: one.start_s, look: 'stage' })),
    ...(run.plan?.faults ?? []).filter(one => !run.faults.some(fault => fault.fault === one.fault && fault.at_s === one.at_s)).map(one => ({ at: one.at_s, text: `${one.fault} planned`, look: 'mark' })),
    ...run.faults.map(one => ({ at: one.begun, text: one.fault, look: 'mark' })),
    ...run.amendments.map(one => ({ at: one.at_s, text: `change ${one.number}`, look: 'change' })),
  ];
  const line = (name, look, pick) => ({ name, look, points: run.seconds.map(second => [second.t, pick(second) ?? null]) });
  const until = run.plan?.end_s && run.plan.end_s < SHOWN && run.state !== 'ended' ? run.plan.end_s : elapsed();
  const target = run.plan?.unit === 'sessions' ? [line('target', 3, second => second.target)] : [];
  fill($('charts'),
    chart('Sessions', [line('sessions', 1, second => second.sessions), ...target], marks, until),
    chart('Tokens per second', [line('tokens/s', 1, second => second.tokens_received)], marks, until),
    chart('First token, ms', [line('p50', 1, second => second.ttft_ms?.p50), line('p99', 2, second => second.ttft_ms?.p99)], marks, until),
    chart('Whole answer, ms', [line('p50', 1, second => second.e2el_ms?.p50), line('p99', 2, second => second.e2el_ms?.p99)], marks, until));
}

function latency() {
  const recent = run.status?.recent ?? {};
  table($('latency'), ['ms', 'p50', 'p95', 'p99'], METRICS.map(name => {
    const figures = recent[name];
    return [name, ...['p50', 'p95', 'p99'].map((key, at) => el('td', { className: figures?.untrusted?.[at] ? 'untrusted' : '' }, figures ? `${figures.untrusted[at] ? '~' : ''}${figure(figures[key])}` : '–'))];
  }));
  const { p50, p99 } = run.status?.e2el_error_ms ?? {};
  const hops = Object.entries(run.status?.hops_ms ?? {}).filter(([, ms]) => ms !== null).map(([hop, ms]) => `${hop} ${figure(ms)} ms`);
  const texts = [
    p50 !== null && p50 !== undefined && `The measurement error of e2el_ms is ${figure(p50)} ms at p50 and ${figure(p99)} ms at p99.`,
    run.second?.loop_lag_ms && `Lag of the generator's event loops in the last second: ${figure(run.second.loop_lag_ms.p99)} ms at p99.`,
    hops.length && `Mean time of tokens: ${hops.join(' · ')}.`,
    'A figure with ~ cannot be trusted.',
  ];
  $('trust').textContent = texts.filter(Boolean).join(' ');
}

const STATES = { held: ['✓', 'good'], broken: ['✗', 'bad'], undecided: ['?', 'unsure'], unknown: ['–', ''] };
function thresholds() {
  const all = run.status?.thresholds ?? [];
  if (!all.length) return fill($('thresholds'));
  fill($('thresholds'), el('h2', {}, 'Thresholds'), el('ul', { className: 'checks' }, ...all.map(one => {
    const [mark, look] = STATES[one.state];
    const margin = one.margin === null ? '' : one.margin >= 0 ? `, ${figure(one.margin * 100)} % left` : `, ${figure(-one.margin * 100)} % beyond`;
    return el('li', {}, el('span', { className: `mark ${look}` }, mark), el('span', { className: 'what' }, one.threshold), el('span', { className: 'value' }, `${one.value_text}${margin}`));
  })));
}

function happenings() {
  const rows = [
    ...run.faults.map(one => [one.t, [clock(one.begun), 'fault', one.fault, `${one.outcome}${one.detail ? `: ${one.detail}` : ''}`]]),
    ...run.amendments.map(one => [one.t, [clock(one.at_s), 'change', one.clients === null ? `${figure(one.arrival_rate)} arrivals per second` : `${count(one.clients)} sessions`, `within ${figure(one.ramp_up_s)} s`]]),
  ].sort((a, b) => a[0] - b[0]).map(([, row]) => row);
  titled($('events'), 'Faults and changes', ['at', 'kind', 'what', 'result'], rows, 'words');
}

function generators() {
  const all = run.status?.generators ?? [];
  if (all.length < 2) return fill($('generators'));
  titled($('generators'), 'Generators', ['generator', 'queries', 'failed', 'tokens', 'lost', 'e2el_ms p95', 'loop_lag_ms p99'],
    all.map(one => [String(one.number), count(one.queries), count(one.queries - one.queries_ok), count(one.tokens_received), count(one.tokens_lost), figure(one.e2el_ms_p95), figure(one.loop_lag_ms_p99)]));
}

function resources() {
  const rows = [...run.health.values()].sort((a, b) => a.target.localeCompare(b.target, 'en', { numeric: true }));
  titled($('resources'), 'Resources by process', ['process', 'CPU cores', 'memory, MB', 'health, ms', 'failed checks', 'restarts'],
    rows.map(one => [one.target, figure(one.cpu_share), figure(one.rss_mb), figure(one.health_ms), count(one.health_failures), count(one.restarts)]));
}

const answer = (text, is_bad = false) => { $('answer').textContent = text; $('answer').classList.toggle('bad', is_bad); };

async function ask(path, body, told) {
  try {
    answer('…');
    answer(told(await send('POST', path, body)));
  } catch (error) {
    answer(error.message, true);
  }
}

$('stop').addEventListener('click', async () => {
  try {
    await send('POST', '/api/run/stop', {});
  } catch (error) {
    problem(error.message);
  }
});
$('amend').addEventListener('submit', event => {
  event.preventDefault();
  const form = new FormData($('amend')), value = Number(form.get('value'));
  const load = run.plan?.unit === 'arrivals per second' ? { arrival_rate: value } : { clients: value };
  ask('/api/run/amend', { ...load, ramp_up: form.get('ramp_up') }, reply => reply.text);
});
$('inject').addEventListener('submit', event => {
  event.preventDefault();
  ask('/api/run/inject', { fault: new FormData($('inject')).get('fault') }, reply => reply.text);
});
