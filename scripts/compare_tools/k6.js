// k6 without extensions reads an answer as a whole: it sees its first byte and its end, and no tokens.
import http from 'k6/http';
import { check } from 'k6';

export const options = {
    scenarios: { readers: { executor: 'per-vu-iterations', vus: Number(__ENV.STREAMS), iterations: Number(__ENV.ROUNDS), maxDuration: '3m' } },
    summaryTrendStats: ['p(50)', 'p(99)'],
};

const body = JSON.stringify({
    model: 'sim', stream: true, max_tokens: Number(__ENV.MAX_TOKENS), messages: [{ role: 'user', content: 'This is a question' }],
});

export default function () {
    const answer = http.post(`${__ENV.URL}/v1/chat/completions`, body, { headers: { 'Content-Type': 'application/json' } });
    check(answer, { 'status is 200': (answer) => answer.status === 200 });
}
