-- The load: nine request headers of a browser's kind. Arguments: MODE NUMBER.
--   same      every request alike
--   varied    cookie, trace id and query differ in every request
--   answers   varied, and path and response head differ too
--   many      varied, with 21 headers more
--   hosts     varied, to NUMBER hosts in turn
--   prefixes  varied, to NUMBER path prefixes in turn

local mode, number, count, seed = "same", 1, 0, 0
local fixed, more = nil, ""

local HEAD = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n" ..
  "Accept-Encoding: gzip, deflate, br\r\n" ..
  "Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n" ..
  "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/115.0\r\n" ..
  "Cache-Control: no-cache\r\n" ..
  "Referer: https://www.example.com/start\r\n"

local function head(target, host, cookie, trace)
  return "GET " .. target .. " HTTP/1.1\r\nHost: " .. host .. "\r\n" .. HEAD ..
    "Cookie: session=" .. cookie .. "; theme=dark; consent=1\r\n" ..
    "X-Trace-Id: " .. trace .. "\r\n" .. more .. "\r\n"
end

function setup(thread)
  thread:set("seed", os.time())
end

function init(arguments)
  mode = arguments[1] or mode
  number = tonumber(arguments[2] or 1)
  if mode == "many" then
    for i = 1, 21 do more = more .. "X-Application-Field-" .. i .. ": value number " .. i .. "\r\n" end
  end
  fixed = head("/api/items?page=2&size=50", "www.example.com",
    "8f14e45fceea167a5a36dedd4bea2543", "4bf92f3577b34da6a3ce929d0e0e4736")
end

function request()
  if mode == "same" then return fixed end
  count = count + 1
  -- A step that visits all residues in an order of its own: near ids differ in every digit.
  local id = string.format("%08x%08x%08x", count, seed, (count * 2654435761) % 4294967296)
  local target, host = "/api/items?page=" .. count, "www.example.com"
  if mode == "answers" then
    target = "/varied/" .. (count * 7919) % 100000 .. "/items?page=" .. count
  elseif mode == "hosts" then
    host = "h" .. (count * 7919) % number .. ".example.com"
  elseif mode == "prefixes" then
    target = "/p" .. (count * 7919) % number .. "/items?page=" .. count
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
