"use strict";
// Lists the newest jobs and looks again every two seconds. The key stays in this page.
const REFRESH_MS = 2000;
const table = document.querySelector("table");
const body = document.getElementById("jobs");
const notice = document.getElementById("notice");
let timer = null;

function cell(content, className) {
  const td = document.createElement("td");
  td.append(content);
  if (className) td.className = className;
  return td;
}

function progressOf(job) {
  const bar = document.createElement("progress");
  bar.max = 100;
  bar.value = job.progress;
  const box = document.createElement("span");
  box.append(bar, ` ${Math.round(job.progress)} %`);
  return box;
}

function filesOf(job) {
  const box = document.createElement("span");
  if (job.error) box.append(`${job.error.code}: ${job.error.message}`);
  for (const artifact of job.artifacts) {
    const link = document.createElement("a");
    link.href = new URL(artifact.url).pathname + new URL(artifact.url).search;
    link.textContent = artifact.name;
    box.append(link, " ");
  }
  return box;
}

function rowOf(job) {
  const row = document.createElement("tr");
  const waiting = job.queue_position === null ? "" : ` (${job.queue_position}.)`;
  row.append(
    cell(job.job_id), cell(job.status + waiting, job.status), cell(job.stage ?? ""), cell(progressOf(job)),
    cell(new Date(job.created_at).toLocaleString()), cell(filesOf(job)),
  );
  return row;
}

async function refresh(key) {
  try {
    const answer = await fetch("../api/v1/jobs?limit=50", { headers: { "X-API-Key": key } });
    const document_ = await answer.json();
    if (!answer.ok) throw new Error(document_.detail);
    body.replaceChildren(...document_.jobs.map(rowOf));
    table.hidden = document_.jobs.length === 0;
    notice.textContent = document_.jobs.length ? "" : "There are no jobs.";
  } catch (error) {
    notice.textContent = error.message;
  }
  timer = setTimeout(refresh, REFRESH_MS, key);
}

document.getElementById("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(timer);
  refresh(document.getElementById("key").value);
});
