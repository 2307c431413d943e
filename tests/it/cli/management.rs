//! Owns a management that only recites: canned answers over real HTTP, and a record of what was asked.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use serde_json::Value;

/// One request, as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// "POST /api/v1/ripples?dry_run=true".
    pub what: String,
    pub body: Value,
    pub authorization: Option<String>,
}

#[derive(Default)]
struct Script {
    answers: HashMap<String, Vec<(u16, Value)>>,
    asked: Vec<Asked>,
}

/// A management that recites a script; stops when dropped.
pub struct Management {
    pub address: SocketAddr,
    script: Arc<Mutex<Script>>,
    handle: ServerHandle,
}

impl Management {
    /// Each request is answered with its next answer; the last one is repeated.
    pub fn reciting(answers: &[(&str, &[(u16, Value)])]) -> Self {
        let answers = answers.iter().map(|(what, answers)| ((*what).to_owned(), answers.to_vec())).collect();
        let script = Arc::new(Mutex::new(Script { answers, asked: Vec::new() }));
        let (told, address) = mpsc::channel();
        let shared = script.clone();
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = HttpServer::new(move || {
                    App::new().app_data(web::Data::new(shared.clone())).default_service(web::to(recite))
                })
                .workers(1)
                .disable_signals()
                .bind(("127.0.0.1", 0))
                .unwrap();
                let address = server.addrs()[0];
                let server = server.run();
                told.send((address, server.handle())).unwrap();
                server.await.unwrap();
            });
        });
        let (address, handle) = address.recv().unwrap();
        Self { address, script, handle }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.script.lock().unwrap().asked.clone()
    }

    /// What was asked, without bodies.
    pub fn heard(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.what).collect()
    }
}

impl Drop for Management {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

async fn recite(request: HttpRequest, body: web::Bytes, script: web::Data<Arc<Mutex<Script>>>) -> HttpResponse {
    let what = format!("{} {}", request.method(), request.uri());
    let authorization = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
    let mut script = script.lock().unwrap();
    script.asked.push(Asked {
        what: what.clone(),
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        authorization,
    });
    let Some(answers) = script.answers.get_mut(&what) else {
        return HttpResponse::NotImplemented().body(format!("the script has no answer to {what}"));
    };
    let (status, answer) = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
    let mut response = HttpResponse::build(StatusCode::from_u16(status).unwrap());
    match (status, answer) {
        (204, _) => response.finish(),
        (_, answer) if answer["type"].is_string() => {
            response.content_type("application/problem+json").body(answer.to_string())
        }
        (_, answer) => response.json(answer),
    }
}
