use std::time::Duration;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use futures_util::stream as streams;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

fn client(settings: Settings) -> Client {
    Client::new(settings, None)
}

fn serve() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = || {
        App::new()
            .app_data(web::PayloadConfig::new(8 << 20))
            .route("/echo", web::post().to(async |body: Bytes| HttpResponse::Ok().body(body)))
            .route("/peer", web::get().to(async |request: HttpRequest| format!("{:?}", request.peer_addr())))
            .route(
                "/parts",
                web::get().to(async || {
                    let parts = (0..64).map(|_| Ok::<_, io::Error>(Bytes::from(vec![7; 1_000])));
                    HttpResponse::Ok().streaming(streams::iter(parts))
                }),
            )
    };
    let server = HttpServer::new(app).workers(1).disable_signals().listen(listener).unwrap().run();
    actix_web::rt::spawn(server);
    url
}

/// A peer that reads one request a connection and then does `how` with it.
async fn rude(how: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(how).await;
            if how.is_empty() {
                tokio::spawn(async move {
                    std::future::pending::<()>().await;
                    drop(stream)
                });
            }
        }
    });
    url
}

#[actix_web::test]
async fn one_connection_a_peer_is_kept_and_used_again() {
    let (client, url) = (client(Settings::default()), serve());
    let first = client.get(&format!("{url}/peer")).await.unwrap().body;
    for _ in 0..5 {
        assert_eq!(client.get(&format!("{url}/peer")).await.unwrap().body, first);
    }
    let echo = client.post(&format!("{url}/echo"), "{}").await.unwrap();
    assert_eq!((echo.status, echo.body.as_ref()), (200, b"{}".as_ref()));
    assert_eq!(client.get(&format!("{url}/nothing")).await.unwrap().status, 404);
}

#[actix_web::test]
async fn a_kept_connection_that_has_died_is_replaced() {
    let (client, url) = (client(Settings::default()), rude(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await);
    for _ in 0..5 {
        assert_eq!(client.get(&url).await.unwrap().body.as_ref(), b"ok");
    }
}

#[actix_web::test]
async fn a_peer_that_does_not_answer_is_not_waited_for() {
    let settings = Settings { answer_timeout: Duration::from_millis(50), ..Settings::default() };
    let error = client(settings).get(&rude(b"").await).await.unwrap_err();
    assert!(matches!(error, LinkError::TimedOut { .. }), "{error}");
    let error = client(settings).get("http://127.0.0.1:1").await.unwrap_err();
    assert!(matches!(error, LinkError::Unreachable { .. }), "{error}");
    assert_eq!(error.problem().code, Code::Unreachable);
}

#[actix_web::test]
async fn an_answer_that_is_cut_short_or_too_large_is_an_error() {
    let short = rude(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok").await;
    let error = client(Settings::default()).post(&short, "{}").await.unwrap_err();
    assert!(matches!(error, LinkError::Broken { .. }), "{error}");
    let url = serve();
    let error = client(Settings { answer_size: 100, ..Settings::default() }).get(&format!("{url}/parts")).await;
    assert!(matches!(error, Err(LinkError::TooLarge { limit: 100, .. })));
}

#[actix_web::test]
async fn a_download_is_bounded_and_hashed_on_the_way() {
    let (client, url) = (client(Settings::default()), format!("{}/parts", serve()));
    let mut file = Vec::new();
    let fetched = client.fetch(&url, &mut file, 64_000).await.unwrap();
    assert_eq!((fetched.bytes, file.len()), (64_000, 64_000));
    assert_eq!(fetched.sha256, Sha256(Hasher::digest(&file).into()));
    let error = client.fetch(&url, &mut Vec::new(), 63_999).await.unwrap_err();
    assert!(matches!(error, LinkError::TooLarge { .. }), "{error}");
    let error = client.fetch(&url.replace("parts", "none"), &mut Vec::new(), 1).await.unwrap_err();
    assert_eq!(error.problem().code, Code::NotFound);
}

#[actix_web::test]
async fn an_upload_is_streamed_whole() {
    let (client, url) = (client(Settings::default()), format!("{}/echo", serve()));
    let body = vec![9; 3 << 20];
    let reader = std::io::Cursor::new(body.clone());
    let answer = client.upload(&url, "application/octet-stream", reader, body.len() as u64, Duration::from_secs(20));
    assert!(answer.await.unwrap().body == body);
}

#[actix_web::test]
async fn an_address_that_is_none_is_refused_with_an_example() {
    for url in ["", "localhost", "ftp://x", "https://127.0.0.1", "http://", "/x", "http://a b"] {
        let error = client(Settings::default()).get(url).await.unwrap_err();
        assert!(matches!(error, LinkError::BadUrl { .. }), "{url}: {error}");
        assert!(error.to_string().contains("http://127.0.0.1:7400"), "{error}");
    }
}
