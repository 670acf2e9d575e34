// Questions to the server that this page came from.

export class ApiError extends Error {}

export async function ask(name, parameters = {}, signal = undefined) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "") query.set(key, String(value));
  }
  let response;
  try {
    response = await fetch(`/api/${name}?${query}`, { signal, credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("the server does not answer; was `rlvr view` ended?");
  }
  const found = await response.json();
  if (!response.ok) throw new ApiError(found.error ?? `the server says ${response.status}`);
  return found;
}
