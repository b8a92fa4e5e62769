// Talks to the service. Failures come back as ApiError, which carries what to say in both languages.

const BASE = new URL("api/", document.baseURI);
const TOKEN = "qingtu.token";

export class ApiError extends Error {
  /** `status` is 0 when the service could not be reached. */
  constructor(status, body) {
    super(body?.en ?? `HTTP ${status}`);
    this.status = status;
    this.code = body?.code ?? "unreachable";
    this.zh = body?.zh ?? (status ? `服务返回 ${status}` : "连接不上服务");
    this.en = body?.en ?? (status ? `The service answered ${status}` : "The service cannot be reached");
  }
}

export function apiUrl(path, query = {}) {
  const url = new URL(path, BASE);
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined) url.searchParams.set(name, value);
  }
  return url;
}

async function ask(url, options) {
  let response;
  try {
    response = await fetch(url, { credentials: "omit", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, null);
  }
  const body = await response.json().catch(() => null);
  if (!response.ok || body === null) throw new ApiError(response.status, body?.error);
  return body;
}

export const get = (path, query = {}, signal = undefined) => ask(apiUrl(path, query), { signal });

/** As `get`, in the name of who is on duty, if somebody is: raw bytes of private networks are for them alone. */
export const getOnDuty = (path, query = {}) => ask(apiUrl(path, query), { headers: token() ? bearer() : {} });

const bearer = () => ({ Authorization: `Bearer ${token() ?? ""}` });

export function post(path, body) {
  const headers = { "Content-Type": "application/json", ...bearer() };
  return ask(apiUrl(path), { method: "POST", headers, body: JSON.stringify(body) });
}

/** The duty token; it names a person, so it stays in this tab's session and never in the address. */
export const token = () => sessionStorage.getItem(TOKEN);

export function setToken(value) {
  if (value) sessionStorage.setItem(TOKEN, value);
  else sessionStorage.removeItem(TOKEN);
}

/** Rows under column names → objects. */
export function rowsToObjects({ columns, rows }) {
  return rows.map((row) => Object.fromEntries(columns.map((name, index) => [name, row[index]])));
}
