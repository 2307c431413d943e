// cart: a shop's cart that is kept in neap's session data, with nothing but Node's standard library.
//
// GET  /           the cart of this session
// GET  /healthz    200
// POST /items      puts the item named by X-Post-Id into the cart; the first sets the cookie "cart"
// POST /checkout   clears the cookie, with which the session ends, and its cart with it
//
// Nothing of a session is in this process: a request's session is loaded, changed, and written back. Of neap it knows the
// session's id in a request, Neap-Session, and where its data is, NEAP_SESSION_URL.
'use strict';

const crypto = require('node:crypto');
const http = require('node:http');
const { setTimeout: sleep } = require('node:timers/promises');

const VERSION = process.env.NEAP_VERSION ?? '0';
const SERVER = process.env.NEAP_NODE ?? '';
const PORT = Number(process.argv[2] ?? process.env.PORT ?? 0);
const SESSIONS = process.env.NEAP_SESSION_URL;
const BODY_BYTES_MAX = 1024 * 1024;
const ITEMS_MAX = 10_000;
const TRIES_MAX = 20;
const GRACE_MS = 30_000;

if (!SESSIONS) {
  console.error('cart: NEAP_SESSION_URL is not set: neap sets it for programs with [session] policy shared or sticky');
  process.exit(1);
}

const agent = new http.Agent({ keepAlive: true, maxSockets: 64 });

class Failed extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// One request for session data: status, headers and body of its answer.
function ask(method, session, body, headers = {}) {
  return new Promise((resolve, reject) => {
    const length = body === undefined ? {} : { 'Content-Length': Buffer.byteLength(body) };
    const options = { method, agent, headers: { ...headers, ...length }, timeout: 30_000 };
    const request = http.request(`${SESSIONS}/${session}`, options, (answer) => {
      const parts = [];
      answer.on('data', (part) => parts.push(part));
      answer.on('error', reject);
      answer.on('end', () => {
        const text = Buffer.concat(parts).toString();
        if (answer.statusCode >= 400 && ![404, 412].includes(answer.statusCode)) {
          reject(new Failed(502, `${method} of session data: ${answer.statusCode} ${text}`));
        } else {
          resolve({ status: answer.statusCode, tag: answer.headers.etag, text });
        }
      });
    });
    request.on('timeout', () => request.destroy(new Failed(504, 'session data did not come')));
    request.on('error', reject);
    request.end(body);
  });
}

// The document of a session and its tag; nothing where there is none yet.
async function load(session) {
  const { status, tag, text } = await ask('GET', session);
  return status === 404 ? {} : { cart: JSON.parse(text), tag };
}

// False: somebody else has written since `tag` was read.
async function save(session, cart, tag) {
  const condition = tag ? { 'If-Match': tag } : { 'If-None-Match': '*' };
  const { status } = await ask('PUT', session, JSON.stringify(cart), condition);
  if (status === 404) throw new Failed(410, 'this session has ended');
  return status !== 412;
}

async function show(session) {
  const { cart } = await load(session);
  return { document: cart ?? { items: [] }, cart };
}

async function add(session, request) {
  const name = request.headers['x-post-id'] ?? '-';
  for (let attempt = 0; attempt < TRIES_MAX; attempt += 1) {
    const { cart = { id: crypto.randomUUID(), items: [] }, tag } = await load(session);
    if (cart.items.length >= ITEMS_MAX) throw new Failed(409, 'the cart is full');
    cart.items.push(name);
    if (await save(session, cart, tag)) {
      const headers = { 'X-Post-Id': name, 'Set-Cookie': `cart=${cart.id}; Path=/; HttpOnly; SameSite=Lax` };
      return { document: { added: name, items: cart.items.length }, cart, headers };
    }
    // Another request of this session was faster: what it wrote is read, and added to.
    await sleep(5 * attempt);
  }
  throw new Failed(409, 'the session is written to by too many');
}

async function checkOut(session) {
  const { cart } = await load(session);
  const headers = { 'Set-Cookie': 'cart=; Path=/; Max-Age=0' };
  return { document: { bought: cart?.items.length ?? 0 }, headers };
}

const pages = { 'GET /': show, 'POST /items': add, 'POST /checkout': checkOut };

async function route(request) {
  const path = request.url.split('?')[0];
  if (path === '/healthz') return { document: { ok: true } };
  const page = pages[`${request.method} ${path}`];
  if (!page) throw new Failed(404, 'no such page');
  let bytes = 0;
  for await (const part of request) {
    bytes += part.length;
    if (bytes > BODY_BYTES_MAX) throw new Failed(413, 'the body is of 1 MiB at the most');
  }
  const session = request.headers['neap-session'];
  if (!session) throw new Failed(500, 'no Neap-Session in this request: [session] policy is shared or sticky');
  return page(session, request);
}

let ending = false;

const server = http.createServer({ keepAliveTimeout: 120_000 }, async (request, response) => {
  let status = 200;
  const outcome = await route(request).catch((error) => {
    status = error.status ?? 502;
    return { document: { error: error.message } };
  });
  const { document, cart, headers = {} } = outcome;
  if (cart) {
    headers['X-Session-Id'] = cart.id;
    headers['X-Session-Items'] = cart.items.length;
    headers['X-Session-Last'] = cart.items.at(-1);
  }
  if (request.headers['x-traffic-id']) headers['X-Traffic-Id'] = request.headers['x-traffic-id'];
  if (ending || status === 413) headers.Connection = 'close';
  const body = JSON.stringify(document);
  response.writeHead(status, {
    'Content-Type': 'application/json',
    'Content-Length': Buffer.byteLength(body),
    'X-Version': VERSION,
    'X-Server': SERVER,
    ...headers,
  });
  response.end(body);
});

for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => {
    ending = true;
    server.close(() => process.exit(0));
    server.closeIdleConnections();
    setTimeout(() => process.exit(0), GRACE_MS).unref();
  });
}

server.listen(PORT, '127.0.0.1', () => console.log(`cart ${VERSION} listens on 127.0.0.1:${server.address().port}`));
