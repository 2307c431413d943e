// A cart in Express's session, by express-session: in this process's memory, or where APP_SESSIONS=neap says, in neap's
// data. Of neap nothing is known but what the second needs: a header, and a URL.
'use strict';

const { AsyncLocalStorage } = require('node:async_hooks');
const crypto = require('node:crypto');
const express = require('express');
const session = require('express-session');

// The id of neap's session that the request under way is of.
const asked = new AsyncLocalStorage();

// What express-session keeps under a session's id is the document of neap's session.
class NeapStore extends session.Store {
  get(id, done) {
    this.ask('GET').then((kept) => done(null, kept?.id === id ? kept.session : null), done);
  }

  set(id, value, done) {
    this.ask('PUT', JSON.stringify({ id, session: value })).then(() => done(null), done);
  }

  touch(id, value, done) {
    done(null);
  }

  destroy(id, done) {
    this.ask('DELETE').then(() => done(null), done);
  }

  async ask(method, body) {
    const answer = await fetch(`${process.env.NEAP_SESSION_URL}/${asked.getStore()}`, { method, body });
    const text = await answer.text();
    if (answer.status === 404 && method !== 'PUT') return null;
    if (!answer.ok) throw new Error(`${method} of session data: ${answer.status} ${text}`);
    return method === 'GET' ? JSON.parse(text) : null;
  }
}

const carts = express.Router();
const store = process.env.APP_SESSIONS === 'neap' ? new NeapStore() : new session.MemoryStore();

carts.use((request, _, next) => asked.run(request.get('Neap-Session'), next));
carts.use(session({ name: 'sid', secret: 'of the tests', resave: false, saveUninitialized: false, store }));

function show(request, response, document) {
  const { cart } = request.session;
  if (cart) {
    response.set('X-Session-Id', cart.id);
    response.set('X-Session-Items', String(cart.items.length));
    response.set('X-Session-Last', cart.items.at(-1));
  }
  response.json(document);
}

carts.get('/', (request, response) => show(request, response, { items: request.session.cart?.items ?? [] }));

carts.post('/items', express.raw({ type: () => true, limit: '1mb' }), (request, response) => {
  const name = request.get('X-Post-Id') ?? '-';
  const cart = request.session.cart ?? { id: crypto.randomUUID(), items: [] };
  cart.items.push(name);
  request.session.cart = cart;
  response.set('X-Post-Id', name);
  show(request, response, { items: cart.items.length });
});

carts.post('/checkout', (request, response) => {
  const bought = request.session.cart?.items.length ?? 0;
  request.session.destroy((error) => {
    if (error) throw error;
    response.clearCookie('sid', { path: '/' });
    response.json({ bought });
  });
});

module.exports = carts;
