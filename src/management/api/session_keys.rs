//! Owns how the keys of sessions' tags are rolled through the API. Must not know how they reach nodes: the next heartbeat
//! of each tells it.

use actix_web::HttpResponse;
use actix_web::web::Data;

use super::{Answer, Desk};
use crate::management::session_asks;
use crate::wire::api::SessionKeysView;

pub async fn roll(desk: Data<Desk>) -> Answer {
    let number = desk.with(session_asks::roll_keys).await??;
    Ok(HttpResponse::Ok().json(SessionKeysView { number }))
}
