// The frame of the page: which part is shown, and what all parts need from the server.
import { $, problem } from './dom.js';
import { follow, get } from './server.js';
import * as now from './now.js';
import * as start from './start.js';
import * as past from './history.js';
import * as query from './query.js';
import * as trial from './trial.js';

const parts = { now: now.shown, start: () => {}, history: past.load, trial: () => {} };

function show() {
  const wanted = location.hash.slice(1);
  const name = wanted in parts ? wanted : 'now';
  for (const part of Object.keys(parts)) {
    $(part).hidden = part !== name;
    const link = document.querySelector(`nav a[href="#${part}"]`);
    if (part === name) link.setAttribute('aria-current', 'page'); else link.removeAttribute('aria-current');
  }
  problem('');
  window.scrollTo(0, 0);
  parts[name]();
}

function take(event) {
  now.take(event);
  if (event.type === 'page') start.running(event.state === 'running' || event.state === 'stopping');
}

$('look-back-queries').addEventListener('click', async () => {
  location.hash = '#history';
  try {
    await query.list(now.id());
  } catch (error) {
    problem(error.message);
  }
});

async function begin() {
  window.addEventListener('hashchange', show);
  show();
  try {
    const state = await get('/api/state');
    start.prepare(state);
    past.prepare(state);
    trial.prepare(state);
    now.prepare(state);
  } catch (error) {
    problem(error.message);
  }
  follow(take, (text, is_live) => {
    $('connection').textContent = text;
    $('connection').classList.toggle('lost', !is_live);
  });
}

begin();
