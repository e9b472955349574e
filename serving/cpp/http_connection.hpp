// One keep-alive HTTP/1.1 connection over POSIX sockets: plain text, answers with a Content-Length.
#pragma once

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <string>
#include <string_view>

#include "track_model.hpp"

namespace trackkeras {

struct HttpAnswer {
  int status = 0;
  std::string body;
};

class HttpConnection {
 public:
  /// `timeout` [s] bounds every wait for the network.
  HttpConnection(std::string host, std::string port, int timeout = 30)
      : host_(std::move(host)), port_(std::move(port)), timeout_(timeout) {}
  HttpConnection(const HttpConnection&) = delete;
  ~HttpConnection() { close(); }

  /// Send a request and wait for its answer. A connection that the server closed while it idled is opened again.
  HttpAnswer ask(const std::string& method, const std::string& path, const std::string& body) {
    const std::string request = method + " " + path + " HTTP/1.1\r\nHost: " + host_ + ":" + port_ +
                                "\r\nContent-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) +
                                "\r\n\r\n" + body;
    const bool reused = socket_ >= 0;
    HttpAnswer answer;
    if (exchange(request, answer)) return answer;
    if (reused && exchange(request, answer)) return answer;
    throw Error(address() + " closed the connection without an answer");
  }

 private:
  std::string address() const { return host_ + ":" + port_; }

  /// False, and closed, if the connection ended before the first byte of an answer.
  bool exchange(const std::string& request, HttpAnswer& answer) {
    if (socket_ < 0) open();
    buffer_.clear();
    send_all(request);
    const std::size_t head = read_until("\r\n\r\n");
    if (head == std::string::npos) {
      close();
      return false;
    }
    std::size_t length = 0;
    bool known = false, keep = true;
    const std::string_view lines = std::string_view(buffer_).substr(0, head);
    if (lines.rfind("HTTP/1.", 0) != 0 || lines.size() < 12) throw_closed(" does not speak HTTP");
    answer.status = std::atoi(buffer_.c_str() + 9);
    for (std::size_t start = lines.find("\r\n"); start != std::string_view::npos;) {
      const std::size_t end = lines.find("\r\n", start + 2);
      const std::string_view line = lines.substr(start + 2, end == std::string_view::npos ? end : end - start - 2);
      const std::size_t colon = std::min(line.find(':'), line.size());
      std::string name(line.substr(0, colon));
      std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
      const std::string value(line.substr(std::min(line.find_first_not_of(" \t", colon + 1), line.size())));
      if (name == "content-length") {
        known = !value.empty() && value.size() < 16 && value.find_first_not_of("0123456789") == std::string::npos;
        length = known ? std::stoull(value) : 0;
      }
      if (name == "connection" && value == "close") keep = false;
      start = end;
    }
    if (!known) throw_closed(" sent an answer without a Content-Length");
    buffer_.erase(0, head + 4);
    while (buffer_.size() < length) {
      if (!receive()) throw_closed(" closed the connection within its answer");
    }
    answer.body = buffer_.substr(0, length);
    if (!keep) close();
    return true;
  }

  void open() {
    addrinfo hints{}, *found = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    if (const int code = getaddrinfo(host_.c_str(), port_.c_str(), &hints, &found))
      throw Error("cannot find " + address() + ": " + gai_strerror(code));
    int reason = 0;
    for (const addrinfo* each = found; each && socket_ < 0; each = each->ai_next) {
      socket_ = socket(each->ai_family, each->ai_socktype, each->ai_protocol);
      if (socket_ >= 0) {
        const timeval limit{timeout_, 0};
        const int on = 1;
        setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        setsockopt(socket_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
        // Without it the second part of a request may wait for the acknowledgement of the first.
        setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (connect(socket_, each->ai_addr, each->ai_addrlen) == 0) break;
      }
      reason = errno;
      close();
    }
    freeaddrinfo(found);
    if (socket_ < 0) throw Error("cannot connect to " + address() + ": " + std::strerror(reason));
  }

  /// A server may answer and close before it has read all: what it said is read in any case.
  void send_all(const std::string& data) {
    for (std::size_t sent = 0; sent < data.size();) {
      const ssize_t count = send(socket_, data.data() + sent, data.size() - sent, MSG_NOSIGNAL);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return;
      sent += static_cast<std::size_t>(count);
    }
  }

  /// Add what arrived to the buffer; false at the end of the connection.
  bool receive() {
    char part[65536];
    for (;;) {
      const ssize_t count = recv(socket_, part, sizeof part, 0);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        throw_closed(" did not answer within " + std::to_string(timeout_) + " s");
      if (count <= 0) return false;
      buffer_.append(part, static_cast<std::size_t>(count));
      return true;
    }
  }

  std::size_t read_until(std::string_view end) {
    for (;;) {
      const std::size_t place = buffer_.find(end);
      if (place != std::string::npos) return place;
      if (buffer_.size() > 65536) throw_closed(" sent a header that is too long");
      if (!receive()) return std::string::npos;
    }
  }

  [[noreturn]] void throw_closed(const std::string& what) {
    close();
    throw Error(address() + what);
  }

  void close() {
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
  }

  std::string host_, port_, buffer_;
  int timeout_;
  int socket_ = -1;
};

}  // namespace trackkeras
