// SPDX-License-Identifier: Apache-2.0
#include "control/tls.hpp"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <climits>
#include <new>

#include "control/secret.hpp"

namespace vtap::control {
namespace {

/// The reason of the latest failure of this thread; OpenSSL keeps a queue of them.
std::string reason() {
  const unsigned long code = ERR_peek_last_error();
  std::array<char, 256> text{};
  ERR_error_string_n(code, text.data(), text.size());
  ERR_clear_error();
  return text.data();
}

Error bad(const std::string& what, const std::string& file) {
  return {what + ' ' + file + ": " + reason(), ErrorKind::usage};
}

class TlsTransport final : public Transport {
 public:
  TlsTransport(SSL_CTX* context, int socket) : ssl_(SSL_new(context)), socket_(socket) {
    if (!ssl_ || SSL_set_fd(ssl_.get(), socket) != 1) throw std::bad_alloc();
    SSL_set_accept_state(ssl_.get());
  }

  Moved read(char* to, std::size_t size) override {
    ERR_clear_error();
    return moved(SSL_read(ssl_.get(), to, bounded(size)));
  }
  Moved write(const char* from, std::size_t size) override {
    ERR_clear_error();
    return moved(SSL_write(ssl_.get(), from, bounded(size)));
  }
  [[nodiscard]] bool has_input() const override { return SSL_pending(ssl_.get()) > 0; }

  void end() override {
    // Not in the middle of a handshake, and not after a failure: OpenSSL refuses both.
    if (!failed_ && SSL_is_init_finished(ssl_.get()) == 1) SSL_shutdown(ssl_.get());
    ERR_clear_error();
    ::shutdown(socket_, SHUT_WR);
  }

 private:
  struct Free {
    void operator()(SSL* ssl) const noexcept { SSL_free(ssl); }
  };

  static int bounded(std::size_t size) {
    return static_cast<int>(std::min(size, std::size_t{INT_MAX}));
  }

  Moved moved(int result) {
    if (result > 0) return {result, 0};
    switch (SSL_get_error(ssl_.get(), result)) {
      case SSL_ERROR_WANT_READ:
        return {-1, POLLIN};
      case SSL_ERROR_WANT_WRITE:
        return {-1, POLLOUT};
      case SSL_ERROR_ZERO_RETURN:
        return {0, 0};
      default:
        failed_ = true;
        return {-1, 0};
    }
  }

  std::unique_ptr<SSL, Free> ssl_;
  int socket_;
  bool failed_ = false;
};

}  // namespace

void Tls::Free::operator()(ssl_ctx_st* context) const noexcept { SSL_CTX_free(context); }

Result<Tls> Tls::open(const std::string& certificate, const std::string& key) {
  ERR_clear_error();
  Tls tls(std::unique_ptr<ssl_ctx_st, Free>(SSL_CTX_new(TLS_server_method())));
  SSL_CTX* const context = tls.context_.get();
  if (context == nullptr) return Error{"TLS: " + reason()};
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  // One request a connection: nothing to resume, nothing to negotiate anew.
  SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                   SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_num_tickets(context, 0);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  if (SSL_CTX_use_certificate_chain_file(context, certificate.c_str()) != 1) {
    return bad("API certificate", certificate);
  }
  if (auto checked = check_private("API key", key); !checked) return checked.error();
  // An empty passphrase, instead of a question on the terminal.
  SSL_CTX_set_default_passwd_cb(context, [](char*, int, int, void*) { return 0; });
  if (SSL_CTX_use_PrivateKey_file(context, key.c_str(), SSL_FILETYPE_PEM) != 1 ||
      SSL_CTX_check_private_key(context) != 1) {
    return bad("API key", key);
  }
  return tls;
}

std::unique_ptr<Transport> Tls::accept(int socket) const {
  return std::make_unique<TlsTransport>(context_.get(), socket);
}

}  // namespace vtap::control
