//! Files: uploaded inputs, and the output and error files that batches produce.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use actix_multipart::{Field, Multipart};
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::page;
use crate::sim::SimError;
use crate::sim::account::Batch;
use crate::sim::error::ApiError;
use crate::sim::event::{Dialect, Event, StoredFile};
use crate::sim::http::{Caller, download, hang_up, off_thread};
use crate::sim::ids;
use crate::sim::render::Part;
use crate::sim::spool::Spool;
use crate::sim::world::{World, held};

const OPENAI: Dialect = Dialect::Openai;
const MOST_BYTES: u64 = 512 << 20;
const MOST_BATCH_BYTES: u64 = 200 << 20;
const MONTH_SECONDS: u64 = 30 * 86_400;
const PURPOSES: [&str; 6] = ["assistants", "batch", "fine-tune", "vision", "user_data", "evals"];

/// What an upload's parts came to.
struct Upload {
    spool: Option<Spool>,
    filename: String,
    purpose: Option<String>,
    expires_after: Option<u64>,
}

pub(in crate::sim) async fn upload(
    request: HttpRequest,
    caller: Caller,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let id = ids::mint("file-");
    let upload = receive(Multipart::new(request.headers(), payload), &caller, &id).await?;
    let purpose = upload.purpose.ok_or_else(|| missing("purpose"))?;
    if !PURPOSES.contains(&purpose.as_str()) {
        return Err(ApiError::invalid(OPENAI, format!("Invalid purpose: {purpose:?}.")).param("purpose"));
    }
    let mut spool = upload.spool.ok_or_else(|| missing("file"))?;
    if purpose == "batch" && spool.bytes() > MOST_BATCH_BYTES {
        return Err(ApiError::too_large(OPENAI, "Batch input files may have at most 200 MB."));
    }
    spool.flush().map_err(|source| unwritten(&spool, source))?;
    let at_ms = ids::now_ms();
    let lasts = upload.expires_after.or((purpose == "batch").then_some(MONTH_SECONDS));
    let file = StoredFile {
        id,
        at_ms,
        bytes: spool.bytes(),
        lines: spool.lines(),
        filename: upload.filename,
        purpose,
        expires_at: lasts.map(|seconds| at_ms / 1_000 + seconds),
    };
    let lost = {
        let shared = caller.world.account(&caller.account);
        let mut account = held(&shared);
        let lost = account.has_left("lose_upload_answers", caller.faults.lose_upload_answers);
        let fault = lost.then(|| "lose_upload_answers".to_owned());
        let event = Event::FileStored { file: file.clone(), fault };
        let recorded = caller.world.record(&caller.account, &mut account, event);
        recorded.map_err(|error| ApiError::broken(OPENAI, &error))?;
        lost
    };
    spool.keep();
    if lost {
        return Ok(hang_up(caller.connection.as_ref()));
    }
    Ok(HttpResponse::Ok().json(uploaded(&file)))
}

/// Takes the parts in whatever order they come; the file goes to disk as it arrives.
async fn receive(mut parts: Multipart, caller: &Caller, id: &str) -> Result<Upload, ApiError> {
    let mut upload = Upload { spool: None, filename: String::new(), purpose: None, expires_after: None };
    while let Some(part) = parts.next().await {
        let mut part = part.map_err(unreadable)?;
        let name = part.name().unwrap_or_default().to_owned();
        if name == "file" {
            let disposition = part.content_disposition();
            let filename = disposition.and_then(|disposition| disposition.get_filename());
            upload.filename = filename.unwrap_or("upload").to_owned();
            upload.spool = Some(spool(&mut part, caller, id).await?);
            continue;
        }
        let value = small(&mut part).await?;
        match name.as_str() {
            "purpose" => upload.purpose = Some(value),
            "expires_after[seconds]" => {
                let seconds = value.parse().ok().filter(|seconds| (3_600..=2_592_000).contains(seconds));
                let wrong = || ApiError::invalid(OPENAI, "expires_after.seconds must be 3600 to 2592000.");
                upload.expires_after = Some(seconds.ok_or_else(wrong)?);
            }
            _ => {}
        }
    }
    Ok(upload)
}

async fn spool(part: &mut Field, caller: &Caller, id: &str) -> Result<Spool, ApiError> {
    let path = caller.world.path(id);
    let mut spool =
        Spool::create(path.clone()).map_err(|source| ApiError::broken(OPENAI, &SimError::io(path, source)))?;
    while let Some(chunk) = part.next().await {
        let chunk = chunk.map_err(unreadable)?;
        if spool.bytes() + chunk.len() as u64 > MOST_BYTES {
            return Err(ApiError::too_large(OPENAI, "Files may have at most 512 MB."));
        }
        // The page cache takes this faster than another thread could be asked.
        spool.write(&chunk).map_err(|source| unwritten(&spool, source))?;
    }
    Ok(spool)
}

async fn small(part: &mut Field) -> Result<String, ApiError> {
    let mut value = Vec::new();
    while let Some(chunk) = part.next().await {
        value.extend_from_slice(&chunk.map_err(unreadable)?);
        if value.len() > 4_096 {
            return Err(ApiError::invalid(OPENAI, "A form field is too long."));
        }
    }
    String::from_utf8(value).map_err(|_| ApiError::invalid(OPENAI, "A form field is not text."))
}

fn unreadable(error: actix_multipart::MultipartError) -> ApiError {
    ApiError::invalid(OPENAI, format!("Could not parse multipart form: {error}"))
}

fn unwritten(spool: &Spool, source: io::Error) -> ApiError {
    ApiError::broken(OPENAI, &SimError::io(spool.path(), source))
}

fn missing(param: &str) -> ApiError {
    ApiError::invalid(OPENAI, format!("'{param}' is a required property")).param(param)
}

fn no_such_file(id: &str) -> ApiError {
    ApiError::not_found(OPENAI, format!("No such File object: {id}")).param("id")
}

fn uploaded(file: &StoredFile) -> Value {
    json!({
        "id": file.id, "object": "file", "bytes": file.bytes, "created_at": file.at_ms / 1_000,
        "expires_at": file.expires_at, "filename": file.filename, "purpose": file.purpose,
        "status": "processed", "status_details": null,
    })
}

/// The file object of a batch's part, once it can be seen; its size is found by writing it to nowhere.
fn produced(world: &World, batch: &Batch, part: Part, crlf: bool) -> Result<Option<(u64, Value)>, SimError> {
    let view = world.view(batch, ids::now_ms())?;
    let Some(id) = super::batches::produced_id(&view, part) else { return Ok(None) };
    let bytes = world.size(batch, part, crlf)?;
    let at_ms = batch.timeline().end(view.content);
    let name = if part == Part::Output { "output" } else { "error" };
    let object = json!({
        "id": id, "object": "file", "bytes": bytes, "created_at": at_ms / 1_000,
        "expires_at": at_ms / 1_000 + MONTH_SECONDS,
        "filename": format!("{}_{name}.jsonl", batch.accepted.id), "purpose": "batch_output",
        "status": "processed", "status_details": null,
    });
    Ok(Some((at_ms, object)))
}

#[derive(Debug, Deserialize)]
pub(in crate::sim) struct Listing {
    after: Option<String>,
    limit: Option<usize>,
    order: Option<String>,
    purpose: Option<String>,
}

pub(in crate::sim) async fn list(caller: Caller, query: web::Query<Listing>) -> Result<HttpResponse, ApiError> {
    let query = query.into_inner();
    let limit = query.limit.unwrap_or(10_000);
    if !(1..=10_000).contains(&limit) {
        return Err(ApiError::invalid(OPENAI, "limit must be 1 to 10000.").param("limit"));
    }
    let mut files = off_thread(OPENAI, move || every_file(&caller)).await?;
    files.sort_by_key(|(at_ms, _)| *at_ms);
    if query.order.as_deref() != Some("asc") {
        files.reverse();
    }
    let mut data: Vec<Value> = files.into_iter().map(|(_, file)| file).collect();
    if let Some(purpose) = query.purpose {
        data.retain(|file| file["purpose"] == purpose.as_str());
    }
    if let Some(after) = query.after {
        let found = data.iter().position(|file| file["id"] == after.as_str());
        let place = found.ok_or_else(|| no_such_file(&after))?;
        data.drain(..=place);
    }
    let has_more = data.len() > limit;
    data.truncate(limit);
    Ok(HttpResponse::Ok().json(page(data, has_more)))
}

fn every_file(caller: &Caller) -> Result<Vec<(u64, Value)>, SimError> {
    let (mut files, batches) = {
        let shared = caller.world.account(&caller.account);
        let account = held(&shared);
        let files: Vec<(u64, Value)> = account.files().map(|file| (file.at_ms, uploaded(file))).collect();
        let batches: Vec<(Batch, Part)> = account
            .batches()
            .iter()
            .flat_map(|batch| [batch.output_id(), batch.error_id()])
            .filter_map(|id| account.produced(&id))
            .collect();
        (files, batches)
    };
    for (batch, part) in batches {
        files.extend(produced(&caller.world, &batch, part, caller.faults.crlf == Some(true))?);
    }
    Ok(files)
}

pub(in crate::sim) async fn get(caller: Caller, id: web::Path<String>) -> Result<HttpResponse, ApiError> {
    let found = {
        let shared = caller.world.account(&caller.account);
        let account = held(&shared);
        account.file(&id).map(uploaded).ok_or_else(|| account.produced(&id))
    };
    let (batch, part) = match found {
        Ok(file) => return Ok(HttpResponse::Ok().json(file)),
        Err(produced) => produced.ok_or_else(|| no_such_file(&id))?,
    };
    let crlf = caller.faults.crlf == Some(true);
    let file = off_thread(OPENAI, move || produced(&caller.world, &batch, part, crlf)).await?;
    let (_, file) = file.ok_or_else(|| no_such_file(&id))?;
    Ok(HttpResponse::Ok().json(file))
}

pub(in crate::sim) async fn delete(caller: Caller, id: web::Path<String>) -> Result<HttpResponse, ApiError> {
    let deleted = caller.world.delete_file(&id, &caller.account);
    if !deleted.map_err(|error| ApiError::broken(OPENAI, &error))? {
        return Err(no_such_file(&id));
    }
    Ok(HttpResponse::Ok().json(json!({"id": *id, "object": "file", "deleted": true})))
}

pub(in crate::sim) async fn content(caller: Caller, id: web::Path<String>) -> Result<HttpResponse, ApiError> {
    let found = {
        let shared = caller.world.account(&caller.account);
        let account = held(&shared);
        account.file(&id).map(|file| file.bytes).ok_or_else(|| account.produced(&id))
    };
    let (batch, part) = match found {
        Ok(bytes) => {
            let path = caller.world.path(&id);
            let cut = caller.cut(move || Ok(bytes)).await?;
            return Ok(octets().streaming(download(move |emit| copy(&path, emit), cut)));
        }
        Err(produced) => produced.ok_or_else(|| no_such_file(&id))?,
    };
    let crlf = caller.faults.crlf == Some(true);
    let (world, wanted) = (caller.world.clone(), batch.clone());
    let view = off_thread(OPENAI, move || world.view(&wanted, ids::now_ms())).await?;
    if super::batches::produced_id(&view, part).is_none() {
        return Err(no_such_file(&id));
    }
    let (world, wanted) = (caller.world.clone(), batch.clone());
    let cut = caller.cut(move || world.size(&wanted, part, crlf)).await?;
    let world = caller.world.clone();
    Ok(octets().streaming(download(move |emit| world.render(&batch, part, crlf, emit), cut)))
}

fn octets() -> actix_web::HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response.content_type("application/octet-stream");
    response
}

fn copy(path: &Path, emit: &mut dyn FnMut(Vec<u8>) -> io::Result<()>) -> io::Result<()> {
    let mut file = File::open(path)?;
    loop {
        let mut chunk = Vec::new();
        if file.by_ref().take(1 << 17).read_to_end(&mut chunk)? == 0 {
            return Ok(());
        }
        emit(chunk)?;
    }
}
