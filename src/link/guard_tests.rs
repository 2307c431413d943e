use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;

use actix_web::{App, HttpResponse, HttpServer, web};
use serde_json::Value;

use super::*;
use crate::link::answer::{json_config, not_found};

const KEY: &str = "0123456789abcdef0123456789abcdef";

fn secret() -> Secret {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), KEY).unwrap();
    std::fs::set_permissions(file.path(), PermissionsExt::from_mode(0o600)).unwrap();
    Secret::load(file.path()).unwrap()
}

/// A real server on a free port; it ends with the test's process.
fn serve(secret: Option<Secret>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let guard = Guard::new(address, secret).host("Neap.Example").open("/healthz");
            let app = move || {
                App::new()
                    .wrap(guard.clone())
                    .app_data(json_config(100))
                    .route("/healthz", web::get().to(HttpResponse::Ok))
                    .route("/json", web::post().to(|_: web::Json<Value>| HttpResponse::Ok()))
                    .default_service(web::to(not_found))
            };
            HttpServer::new(app).workers(1).listen(listener).unwrap().run().await.unwrap();
        });
    });
    address
}

/// Sends a request as written, and answers with status and body.
fn ask(address: SocketAddr, line: &str, headers: &[&str], body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = headers.iter().map(|header| format!("{header}\r\n")).collect::<String>();
    write!(stream, "{line} HTTP/1.1\r\n{head}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

fn code(answer: &str) -> String {
    assert!(answer.contains("application/problem+json"), "{answer}");
    let body = answer.split("\r\n\r\n").nth(1).unwrap();
    serde_json::from_str::<Value>(body).unwrap()["code"].as_str().unwrap().to_owned()
}

#[test]
fn a_node_answers_to_its_own_names_only() {
    let address = serve(None);
    let own = format!("Host: {address}");
    for host in [own.as_str(), "Host: localhost", "Host: LOCALHOST:1", "Host: [::1]:7400", "Host: neap.example:80"] {
        assert_eq!(ask(address, "GET /healthz", &[host], "").0, 200, "{host}");
    }
    for host in ["Host: evil.example", "Host: 10.0.0.1", "Host: localhost.evil.example", "Host: a@localhost"] {
        let (status, answer) = ask(address, "GET /healthz", &[host], "");
        assert_eq!((status, code(&answer).as_str()), (421, "forbidden_host"), "{host}");
    }
    assert_ne!(ask(address, "GET /healthz", &["Host: localhost", "Host: evil.example"], "").0, 200);
    let (status, _) = ask(address, "GET http://evil.example/healthz", &["Host: localhost"], "");
    assert_ne!(status, 200, "target and Host must agree");
}

#[test]
fn a_page_of_another_origin_may_not_ask() {
    let address = serve(None);
    let host = format!("Host: {address}");
    let own = format!("Origin: http://{address}");
    assert_eq!(ask(address, "GET /healthz", &[&host, &own], "").0, 200);
    for origin in ["Origin: null", "Origin: http://localhost:3000", "Origin: http://evil.example"] {
        let (status, answer) = ask(address, "POST /json", &[&host, origin], "{}");
        assert_eq!((status, code(&answer).as_str()), (403, "forbidden_origin"), "{origin}");
    }
}

#[test]
fn with_a_secret_only_those_who_know_it_are_answered() {
    let address = serve(Some(secret()));
    let host = format!("Host: {address}");
    for right in [format!("Neap-Cluster-Key: {KEY}"), format!("Authorization: Bearer {KEY}")] {
        assert_eq!(ask(address, "GET /x", &[&host, &right], "").0, 404);
    }
    for wrong in ["X: y", "Neap-Cluster-Key: 0", "Authorization: Basic 0"] {
        let (status, answer) = ask(address, "GET /x", &[&host, wrong], "");
        assert_eq!((status, code(&answer).as_str()), (401, "unauthorized"), "{wrong}");
    }
    assert_eq!(ask(address, "GET /healthz", &[&host], "").0, 200, "health is for everyone");
}

#[test]
fn json_is_bounded_and_bad_json_is_answered_with_its_place() {
    let address = serve(None);
    let headers = ["Host: localhost", "Content-Type: application/json"];
    assert_eq!(ask(address, "POST /json", &headers, "{}").0, 200);
    let (status, answer) = ask(address, "POST /json", &headers, "{\n  x");
    assert_eq!((status, code(&answer).as_str()), (400, "bad_request"));
    assert!(answer.contains(r#""line":2"#), "{answer}");
    let (status, answer) = ask(address, "POST /json", &headers, &format!("\"{}\"", "x".repeat(200)));
    assert_eq!((status, code(&answer).as_str()), (413, "payload_too_large"));
    let (status, answer) = ask(address, "POST /json", &["Host: localhost"], "{}");
    assert_eq!((status, code(&answer).as_str()), (400, "bad_request"));
}
