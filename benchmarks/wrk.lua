-- The load: nine request headers of a browser's kind. Arguments: MODE NUMBER.
--   same      every request alike
--   varied    cookie, trace id and query differ in every request
--   answers   varied, and path and response head differ too
--   many      varied, with 21 headers more
--   hosts     varied, to NUMBER hosts in turn
--   prefixes  varied, to NUMBER path prefixes in turn
--   token     an API client's: a bearer token of 1 KiB, trace fields, ids in the path
--   cookie    varied, with a cookie of 4 KiB
--   escapes   varied, with escapes, dots and doubled slashes in the path
--   post      varied, with a body of NUMBER bytes
--   rich      varied, answered with fourteen fields more, one of them of 1 KiB
--   once      varied, each on a connection of its own
--   closing   varied, to an endpoint that closes after each answer

local mode, number, count, seed = "same", 1, 0, 0
local fixed, more, body = nil, "", ""
local noise = {}  -- of 1,000 bytes each, made before, so that making the load costs little

local HEAD = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n" ..
  "Accept-Encoding: gzip, deflate, br\r\n" ..
  "Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n" ..
  "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/115.0\r\n" ..
  "Cache-Control: no-cache\r\n" ..
  "Referer: https://www.example.com/start\r\n"

local function head(target, host, cookie, trace)
  return (body == "" and "GET " or "POST ") .. target .. " HTTP/1.1\r\nHost: " .. host .. "\r\n" .. HEAD ..
    "Cookie: session=" .. cookie .. "; theme=dark; consent=1\r\n" ..
    "X-Trace-Id: " .. trace .. "\r\n" .. more .. "\r\n" .. body
end

local function token(id)
  return "GET /v1/users/" .. id .. "/orders/" .. count .. "?expand=items HTTP/1.1\r\nhost: api.example.com:8443\r\n" ..
    "authorization: Bearer " .. id .. noise[1 + count % 256] .. "\r\naccept: application/json\r\n" ..
    "content-type: application/json\r\nuser-agent: okhttp/4.9.3\r\naccept-encoding: gzip\r\n" ..
    "traceparent: 00-" .. id .. "0e0e4736-" .. id:sub(9) .. "-01\r\nx-request-id: " .. id .. "\r\n" ..
    "idempotency-key: " .. id .. count .. "\r\n\r\n"
end

function setup(thread)
  thread:set("seed", os.time())
end

function init(arguments)
  mode = arguments[1] or mode
  number = tonumber(arguments[2] or 1)
  if mode == "many" then
    for i = 1, 21 do more = more .. "X-Application-Field-" .. i .. ": value number " .. i .. "\r\n" end
  elseif mode == "post" then
    body = string.rep("x", number)
    more = "Content-Type: application/json\r\nContent-Length: " .. number .. "\r\n"
  elseif mode == "once" then
    more = "Connection: close\r\n"
  end
  for i = 1, 259 do
    local pieces = {}
    for j = 1, 125 do pieces[j] = string.format("%08x", math.random(0, 2147483647)) end
    noise[i] = table.concat(pieces)
  end
  fixed = head("/api/items?page=2&size=50", "www.example.com",
    "8f14e45fceea167a5a36dedd4bea2543", "4bf92f3577b34da6a3ce929d0e0e4736")
end

function request()
  if mode == "same" then return fixed end
  count = count + 1
  -- A step that visits all residues in an order of its own: near ids differ in every digit.
  local id = string.format("%08x%08x%08x", count, seed, (count * 2654435761) % 4294967296)
  if mode == "token" then return token(id) end
  local target, host = "/api/items?page=" .. count, "www.example.com"
  if mode == "answers" then
    target = "/varied/" .. (count * 7919) % 100000 .. "/items?page=" .. count
  elseif mode == "hosts" then
    host = "h" .. (count * 7919) % number .. ".example.com"
  elseif mode == "prefixes" then
    target = "/p" .. (count * 7919) % number .. "/items?page=" .. count
  elseif mode == "escapes" then
    target = "/caf%c3%a9/a%20b/./x/../y//z;v=1/" .. count .. "?q=%22" .. count .. "%22"
  elseif mode == "rich" or mode == "closing" then
    target = "/" .. mode .. "/items?page=" .. count
  elseif mode == "cookie" then
    local i = count % 256
    id = id .. noise[i + 1] .. noise[i + 2] .. noise[i + 3] .. noise[i + 4]:sub(1, 960)
  end
  return head(target, host, id .. "5bea2543", id .. "0e0e4736")
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\nresult {"requests": %d, "bytes": %d, "seconds": %.6f, "errors": %d, "p50": %d, "p99": %d}\n',
    summary.requests, summary.bytes, summary.duration / 1e6,
    e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
