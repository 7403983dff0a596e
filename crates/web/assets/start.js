// Starts a run: first its plan with all checks of the command line, then the run.
import { $, el, problem } from './dom.js';
import { send } from './server.js';

const LISTS = { threshold: '\n', fault: '\n', 'api-url': ' ', 'wsproxy-url': ' ', 'i-am-allowed-to-load-test': ' ' };
let checked = null, is_running = false, can_start = true;

export function prepare(state) {
  can_start = state.starts_runs;
  const select = $('form').elements.scenario;
  select.append(...state.scenarios.map(name => el('option', { value: name }, name)));
  note();
}

export function running(is_on) {
  is_running = is_on;
  note();
}

// The form as the server takes it: only what was filled in.
function values() {
  const form = {};
  for (const field of $('form').elements) {
    if (!field.name) continue;
    if (field.type === 'checkbox') {
      if (field.checked) form[field.name] = true;
    } else if (field.value.trim()) {
      const text = field.value.trim();
      form[field.name] = field.name in LISTS ? text.split(LISTS[field.name]).map(part => part.trim()).filter(Boolean) : text;
    }
  }
  return form;
}

function note() {
  $('go').disabled = checked === null || is_running || !can_start;
  $('go-note').textContent = !can_start ? 'This page belongs to one run. streamstress web starts others.'
    : is_running ? 'A run goes on: it must end first.'
      : checked === null ? 'A run starts after its plan was checked.' : 'The plan is accepted.';
}

function changed() {
  checked = null;
  note();
}

async function check() {
  const form = values();
  try {
    problem('');
    const { exit_code, text, messages } = await send('POST', '/api/plan', form);
    $('plan').hidden = false;
    $('plan').textContent = [messages.trim(), text.trim()].filter(Boolean).join('\n\n');
    $('plan').classList.toggle('bad', exit_code !== 0);
    checked = exit_code === 0 ? JSON.stringify(form) : null;
    note();
    (exit_code === 0 && !$('go').disabled ? $('go') : $('plan')).focus();
  } catch (error) {
    changed();
    problem(error.message);
  }
}

async function go() {
  const form = values();
  if (JSON.stringify(form) !== checked) return changed();
  try {
    await send('POST', '/api/runs', form);
    location.hash = '#now';
  } catch (error) {
    problem(error.message);
  }
}

$('form').addEventListener('input', changed);
$('form').addEventListener('submit', event => {
  event.preventDefault();
  check();
});
$('go').addEventListener('click', go);
