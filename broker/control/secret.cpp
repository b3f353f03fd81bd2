// SPDX-License-Identifier: Apache-2.0
#include "control/secret.hpp"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "control/fd.hpp"

namespace vtap::control {
namespace {

Error bad(const std::string& what, const std::string& file, const std::string& why) {
  return {what + ' ' + file + ": " + why, ErrorKind::usage};
}

Result<void> check_private(const std::string& what, const std::string& file, int fd) {
  struct stat status {};
  if (fd < 0 || ::fstat(fd, &status) != 0) {
    return bad(what, file, std::string("cannot be read: ") + std::strerror(errno));
  }
  if (!S_ISREG(status.st_mode)) return bad(what, file, "is no regular file");
  if ((status.st_mode & (S_IROTH | S_IWOTH)) != 0) {
    return bad(what, file, "everybody may read or write it; chmod o-rw " + file);
  }
  return {};
}

Fd open(const std::string& file) {
  // Non-blocking: a FIFO in its place must not hang the start.
  return Fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
}

bool is_visible(char c) { return c > ' ' && c <= '~'; }

}  // namespace

Result<void> check_private(const std::string& what, const std::string& file) {
  return check_private(what, file, open(file).get());
}

Result<Token> Token::read(const std::string& file) {
  const std::string what = "API token";
  const Fd fd = open(file);
  if (auto checked = check_private(what, file, fd.get()); !checked) return checked.error();
  std::array<char, kLongest + 2> buffer{};
  const ssize_t got = ::read(fd.get(), buffer.data(), buffer.size());
  if (got < 0) return bad(what, file, std::string("cannot be read: ") + std::strerror(errno));
  std::string text(buffer.data(), static_cast<std::size_t>(got));
  while (text.ends_with('\n') || text.ends_with('\r')) text.pop_back();
  if (text.size() < kShortest || text.size() > kLongest ||
      !std::all_of(text.begin(), text.end(), is_visible)) {
    return bad(what, file,
               "a token is one line of 16 to 4096 visible ASCII characters; make one by: openssl "
               "rand -hex 32");
  }
  return Token(std::move(text));
}

bool Token::is_shown_by(std::string_view authorization) const {
  constexpr std::string_view kScheme = "Bearer ";
  if (authorization.size() != kScheme.size() + text_.size()) return false;
  if (::strncasecmp(authorization.data(), kScheme.data(), kScheme.size()) != 0) return false;
  return CRYPTO_memcmp(authorization.data() + kScheme.size(), text_.data(), text_.size()) == 0;
}

}  // namespace vtap::control
