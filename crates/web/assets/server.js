// Calls the server of the page. The access token comes from the address's fragment, which browsers never send, and stays in this tab.
const KEY = 'streamstress-token';
const given = new URLSearchParams(location.hash.slice(1)).get('t');
if (given) {
  sessionStorage.setItem(KEY, given);
  history.replaceState(null, '', '#now');
}
const headers = more => ({ Authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ''}`, ...more });

async function answer(response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.detail ?? `the server answered with ${response.status}`);
  return body;
}

export const get = async path => answer(await fetch(path, { headers: headers() }));

export const send = async (method, path, body) => answer(await fetch(path, {
  method,
  headers: headers(body === undefined ? {} : { 'Content-Type': 'application/json' }),
  body: body === undefined ? undefined : JSON.stringify(body),
}));

// Reads one response of server-sent events to its end. Calls `take` with each event and its id.
export async function read(path, lastId, take, signal, opened = () => {}) {
  const response = await fetch(path, { headers: headers(lastId ? { 'Last-Event-ID': lastId } : {}), signal });
  if (!response.ok) await answer(response);
  opened();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split('\n\n');
    rest = blocks.pop();
    for (const block of blocks) {
      let id = null, data = null;
      for (const line of block.split('\n')) {
        if (line.startsWith('id: ')) id = line.slice(4);
        if (line.startsWith('data: ')) data = line.slice(6);
      }
      if (data !== null) take(JSON.parse(data), id);
    }
  }
}

// A tab that is not seen gives its connection back after this time: browsers allow few connections to one server, for all tabs together.
const UNSEEN_MS = 3000;
let cut = null, unseen = 0;
function seen_or_not() {
  clearTimeout(unseen);
  if (document.hidden) unseen = setTimeout(() => cut?.abort(), UNSEEN_MS);
}
document.addEventListener('visibilitychange', seen_or_not);
const until_seen = () => new Promise(resolve => {
  if (!document.hidden) return resolve();
  const look = () => { if (!document.hidden) { document.removeEventListener('visibilitychange', look); resolve(); } };
  document.addEventListener('visibilitychange', look);
});

// Follows the events of the page for as long as it is open and seen. Resumes after the last event that it saw.
export async function follow(take, show) {
  let last = null, pause = 500;
  for (;;) {
    if (document.hidden && cut?.signal.aborted) {
      show('paused', false);
      await until_seen();
    }
    try {
      cut = new AbortController();
      seen_or_not();
      await read('/api/events', last, (event, id) => { last = id ?? last; take(event); }, cut.signal, () => { pause = 500; show('live', true); });
      show('reconnecting', false);
    } catch (error) {
      if (cut.signal.aborted) continue;
      show(error instanceof TypeError ? 'no connection' : error.message, false);
    }
    await new Promise(resolve => setTimeout(resolve, pause));
    pause = Math.min(pause * 2, 5000);
  }
}
