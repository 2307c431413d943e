//! Owns who may talk to a node's own endpoints: no web page through a browser (DNS rebinding, other origins), and
//! nobody without the cluster's key where there is one. Must not know what the endpoints do.

use std::future::{Ready, ready};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform, forward_ready};
use actix_web::http::header::{HOST, HeaderMap, ORIGIN};
use actix_web::http::uri::Authority;
use actix_web::{Error, ResponseError};
use futures_util::future::LocalBoxFuture;

use super::secret::Secret;
use crate::wire::problem::{Code, Problem};

/// The middleware: `App::new().wrap(guard.clone())`.
#[derive(Clone, Debug)]
pub struct Guard {
    rules: Arc<Rules>,
}

#[derive(Clone, Debug)]
struct Rules {
    listen: IpAddr,
    hosts: Vec<String>,
    secret: Option<Secret>,
    open: Vec<String>,
}

impl Guard {
    /// Guards what listens on `listen`. It answers to that address; one on loopback, to `localhost` and every loopback
    /// address; one on all addresses, to every address written as a number (which no rebound name can be).
    pub fn new(listen: SocketAddr, secret: Option<Secret>) -> Self {
        let rules = Rules { listen: listen.ip(), hosts: Vec::new(), secret, open: Vec::new() };
        Self { rules: Arc::new(rules) }
    }

    /// Answers to this name as well.
    pub fn host(mut self, name: &str) -> Self {
        Arc::make_mut(&mut self.rules).hosts.push(name.to_ascii_lowercase());
        self
    }

    /// Answers on this path without the cluster's key: health checks of outer load balancers.
    pub fn open(mut self, path: &str) -> Self {
        Arc::make_mut(&mut self.rules).open.push(path.to_owned());
        self
    }
}

impl Rules {
    fn admit(&self, path: &str, target: Option<&Authority>, headers: &HeaderMap) -> Result<(), Problem> {
        let host = self.own_host(target, headers)?;
        same_origin(&host, headers)?;
        match &self.secret {
            Some(secret) if !self.open.iter().any(|open| open == path) && !secret.is_in(headers) => Err(no_key()),
            _ => Ok(()),
        }
    }

    /// The one Host that the request names, if it is this node's.
    fn own_host(&self, target: Option<&Authority>, headers: &HeaderMap) -> Result<String, Problem> {
        let forbidden = |shown: &str| {
            Problem::new(Code::ForbiddenHost, format!("this node does not answer to the name \"{shown}\""))
                .hint(format!("use its address, such as {}, or localhost on its own machine", self.listen))
        };
        let mut hosts = headers.get_all(HOST);
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(forbidden("")) };
        let text = host.to_str().map_err(|_| forbidden("?"))?.to_ascii_lowercase();
        let shown: String = text.chars().take(80).collect();
        let authority: Authority = text.parse().map_err(|_| forbidden(&shown))?;
        let agrees = target.is_none_or(|target| target.as_str().eq_ignore_ascii_case(&text));
        if agrees && !text.contains('@') && self.is_own(authority.host()) { Ok(text) } else { Err(forbidden(&shown)) }
    }

    fn is_own(&self, name: &str) -> bool {
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        match bare.parse::<IpAddr>() {
            Ok(ip) => {
                let all = self.listen.is_unspecified();
                ip == self.listen || all || (self.listen.is_loopback() && ip.is_loopback())
            }
            Err(_) => {
                let local = name == "localhost" && (self.listen.is_loopback() || self.listen.is_unspecified());
                local || self.hosts.iter().any(|host| host == name)
            }
        }
    }
}

/// A browser tells the page's origin with everything that changes something; it must be this very address.
fn same_origin(host: &str, headers: &HeaderMap) -> Result<(), Problem> {
    let own = |origin: &str| {
        let origin = origin.to_ascii_lowercase();
        origin.strip_prefix("http://").or(origin.strip_prefix("https://")) == Some(host)
    };
    match headers.get_all(ORIGIN).find(|origin| !origin.to_str().is_ok_and(own)) {
        None => Ok(()),
        Some(origin) => {
            let shown: String = String::from_utf8_lossy(origin.as_bytes()).chars().take(80).collect();
            Err(Problem::new(Code::ForbiddenOrigin, format!("a page of \"{shown}\" may not ask this node")))
        }
    }
}

fn no_key() -> Problem {
    Problem::new(Code::Unauthorized, "the cluster's key is missing or wrong")
        .hint(
        "give the cluster's secret: on a node cluster.secret_file, to a command --token-file FILE or NEAP_TOKEN, over HTTP \
         the header Authorization: Bearer",
    )
}

impl<S, B> Transform<S, ServiceRequest> for Guard
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Transform = Guarded<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        ready(Ok(Guarded { service: Rc::new(service), rules: self.rules.clone() }))
    }
}

/// A service behind the guard.
pub struct Guarded<S> {
    service: Rc<S>,
    rules: Arc<Rules>,
}

impl<S, B> Service<ServiceRequest> for Guarded<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Error>>;

    forward_ready!(service);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        match self.rules.admit(request.path(), request.uri().authority(), request.headers()) {
            Ok(()) => {
                let service = self.service.clone();
                Box::pin(async move { service.call(request).await.map(ServiceResponse::map_into_left_body) })
            }
            Err(problem) => {
                let answer = request.into_response(problem.error_response()).map_into_right_body();
                Box::pin(ready(Ok(answer)))
            }
        }
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
