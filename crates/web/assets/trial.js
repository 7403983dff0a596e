// One session: shows the tokens of an answer, cuts its connection, and resumes after the last position.
import { $, count, el, fill, tile } from './dom.js';
import { read, send } from './server.js';

let session = null;
const fresh = () => ({ last: null, cut: null, is_attached: false, received: 0, lost: 0, duplicated: 0, reordered: 0, expected: null, generation: null, sequence: 0 });

export const prepare = state => { $('trial-target').textContent = state.target; };

function log(text) {
  $('trial-log').append(el('li', {}, `${new Date().toLocaleTimeString('en-GB')} ${text}`));
  $('trial-log').scrollTop = $('trial-log').scrollHeight;
}

function draw() {
  $('trial-ask').disabled = !session?.is_attached;
  $('trial-cut').disabled = !session?.is_attached;
  $('trial-resume').disabled = !session || session.is_attached;
  $('trial-close').disabled = !session;
  if (!session) return;
  const { received, expected, lost, duplicated, reordered, last } = session;
  fill($('trial-tiles'), tile('tokens', expected === null ? count(received) : `${count(received)} of ${count(expected)}`), tile('lost', count(lost), lost > 0),
    tile('duplicated', count(duplicated), duplicated > 0), tile('reordered', count(reordered), reordered > 0), tile('last position', last ?? '–'));
}

// Accounts for an event by its position, as the load generator does: every position of a generation, once and in order.
function take(of, event) {
  if (event.type === 'resumed') return log(`resumed to ${event.to}`);
  if (event.type === 'gap') return log(`gap from ${event.from} to ${event.to}: these positions cannot be delivered any more`);
  const [generation, sequence] = (event.id ?? '').split('-').map(Number);
  if (!Number.isFinite(sequence)) return log(`other frame: ${JSON.stringify(event).slice(0, 200)}`);
  if (generation === of.generation && sequence <= of.sequence) {
    of.duplicated += 1;
    return;
  }
  if (generation < of.generation) {
    of.reordered += 1;
    return;
  }
  if (generation !== of.generation) [of.generation, of.sequence] = [generation, 0];
  of.lost += sequence - of.sequence - 1;
  [of.sequence, of.last] = [sequence, event.id];
  if (event.type === 'token') {
    of.received += 1;
    $('trial-text').append(event.content);
  } else {
    $('trial-text').append(document.createElement('br'));
    log(`${event.type} at position ${event.id}${event.message ? `: ${event.message}` : ''}`);
  }
}

async function attach(of) {
  of.cut = new AbortController();
  let reason = 'cut by this page';
  try {
    await read('/api/trial/frames', of.last, piece => {
      if (piece.opened) {
        of.is_attached = true;
        log(of.last ? `socket open, resuming after ${of.last}` : 'socket open');
      } else if (piece.ended !== undefined) {
        reason = piece.ended;
      } else {
        take(of, JSON.parse(piece.frame));
      }
      draw();
    }, of.cut.signal);
  } catch (error) {
    if (error.name !== 'AbortError') reason = error.message;
  }
  of.is_attached = false;
  if (session === of) {
    $('trial-text').append(el('i', {}, 'cut'));
    log(`socket ended: ${reason}`);
    draw();
  }
}

async function attempt(act) {
  try {
    await act();
  } catch (error) {
    log(error.message);
  }
  draw();
}

$('trial-open').addEventListener('click', () => attempt(async () => {
  session?.cut?.abort();
  session = null;
  fill($('trial-text'));
  log('opening a session');
  await send('POST', '/api/trial', {});
  session = fresh();
  attach(session);
}));
$('trial-ask').addEventListener('click', () => attempt(async () => {
  const tokens = Number($('trial-tokens').value);
  const reply = await send('POST', '/api/trial/ask', { tokens });
  const announced = reply.tokens ?? tokens;
  session.expected = (session.expected ?? 0) + announced;
  log(`asked: ${announced} tokens announced${reply.server ? ` by ${reply.server}` : ''}`);
}));
$('trial-cut').addEventListener('click', () => session?.cut?.abort());
$('trial-resume').addEventListener('click', () => { if (session && !session.is_attached) attach(session); });
$('trial-close').addEventListener('click', () => attempt(async () => {
  const of = session;
  session = null;
  of.cut?.abort();
  await send('DELETE', '/api/trial');
  log('session closed');
}));
