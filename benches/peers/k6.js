// The load of `bench client`, for k6: a virtual user is one session. It creates the session, connects, submits one query
// when the socket is open, and counts tokens until the query is done.
import http from 'k6/http';
import { sleep } from 'k6';
import { Counter } from 'k6/metrics';
import exec from 'k6/execution';
import { WebSocket } from 'k6/websockets';

const clients = Number(__ENV.CLIENTS);
const rampUp = Number(__ENV.RAMP_UP_SECONDS);
const query = JSON.stringify({
  query: 'bench',
  tokens: Number(__ENV.TOKENS),
  itl_ms: Number(__ENV.ITL_MS),
});
const json = { headers: { 'Content-Type': 'application/json' } };

const tokens = new Counter('bench_tokens');
const done = new Counter('bench_done');
const failed = new Counter('bench_failed');

export const options = {
  scenarios: {
    streams: {
      executor: 'per-vu-iterations',
      vus: clients,
      iterations: 1,
      maxDuration: `${__ENV.LIMIT_SECONDS}s`,
      gracefulStop: '1s',
    },
  },
};

export default function () {
  sleep((rampUp * (exec.vu.idInTest - 1)) / clients);
  const created = http.post(`${__ENV.API_URL}/session/create`, null);
  if (created.status !== 200) {
    failed.add(1);
    return;
  }
  const { session_id: session, auth_token: token } = created.json();
  const socket = new WebSocket(`${__ENV.WS_URL}/bench/ws/${session}`, null, {
    headers: { Authorization: `Bearer ${token}` },
  });
  socket.addEventListener('open', () => {
    if (http.post(`${__ENV.API_URL}/session/${session}/run`, query, json).status !== 200) {
      failed.add(1);
      socket.close();
    }
  });
  socket.addEventListener('message', (event) => {
    const { type } = JSON.parse(event.data);
    if (type === 'token') {
      tokens.add(1);
    } else if (type === 'done') {
      done.add(1);
      socket.close();
    }
  });
  socket.addEventListener('error', () => failed.add(1));
}

export function handleSummary({ metrics }) {
  const count = (name) => (metrics[name] ? metrics[name].values.count : 0);
  return {
    [__ENV.SUMMARY]: JSON.stringify({
      tokens: count('bench_tokens'),
      done: count('bench_done'),
      failed: count('bench_failed'),
    }),
  };
}
