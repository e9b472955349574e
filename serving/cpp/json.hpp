// A reader of JSON that walks through a text once, in order: enough for the answers of a model server.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "track_model.hpp"

namespace trackkeras {

class JsonReader {
 public:
  explicit JsonReader(std::string_view text) : text_(text) {}

  /// Call `member(key)` for every member of an object; it must read the value.
  template <class Member>
  void object(Member member) {
    sequence('{', '}', [&] {
      const std::string key = string();
      expect(':');
      member(key);
    });
  }

  /// Call `element()` for every element of a list; it must read it.
  template <class Element>
  void list(Element element) {
    sequence('[', ']', element);
  }

  std::string string() {
    expect('"');
    std::string result;
    for (;;) {
      const char c = take();
      if (c == '"') return result;
      if (c != '\\') {
        result += c;
        continue;
      }
      const char escaped = take();
      switch (escaped) {
        case 'n': result += '\n'; break;
        case 't': result += '\t'; break;
        case 'r': case 'b': case 'f': result += ' '; break;
        case 'u':
          for (int i = 0; i < 4; ++i) take();
          result += '?';  // text of messages; names are ASCII
          break;
        default: result += escaped;
      }
    }
  }

  /// NaN and Infinity are no JSON, but what servers write for numbers that are not finite.
  double number() {
    skip_space();
    const std::size_t start = place_;
    for (const char* name : {"NaN", "Infinity", "-Infinity"}) {
      const std::string_view word(name);
      if (text_.substr(place_, word.size()) != word) continue;
      place_ += word.size();
      return std::strtod(name, nullptr);
    }
    while (place_ < text_.size() && std::string_view("+-.0123456789eE").find(text_[place_]) != std::string_view::npos) ++place_;
    const std::string digits(text_.substr(start, place_ - start));
    char* end = nullptr;
    const double value = std::strtod(digits.c_str(), &end);
    if (digits.empty() || *end) fail();
    return value;
  }

  /// A whole number, which servers write as text as well.
  std::int64_t integer() {
    if (peek() != '"') return static_cast<std::int64_t>(number());
    const std::string digits = string();
    char* end = nullptr;
    const long long value = std::strtoll(digits.c_str(), &end, 10);
    if (digits.empty() || *end) fail();
    return value;
  }

  /// All numbers of lists within lists, one after the other.
  void numbers(std::vector<double>& to, int depth = 0) {
    if (depth > deepest) fail();
    if (peek() == '[') list([&] { numbers(to, depth + 1); });
    else to.push_back(number());
  }

  /// Read a value of any kind and forget it.
  void skip(int depth = 0) {
    if (depth > deepest) fail();
    switch (peek()) {
      case '{': object([&](const std::string&) { skip(depth + 1); }); break;
      case '[': list([&] { skip(depth + 1); }); break;
      case '"': string(); break;
      case 't': word("true"); break;
      case 'f': word("false"); break;
      case 'n': word("null"); break;
      default: number();
    }
  }

  char peek() {
    skip_space();
    return place_ < text_.size() ? text_[place_] : '\0';
  }

 private:
  static constexpr int deepest = 64;

  template <class Part>
  void sequence(char open, char close, Part part) {
    expect(open);
    if (peek() == close) {
      ++place_;
      return;
    }
    for (;;) {
      part();
      if (peek() == close) {
        ++place_;
        return;
      }
      expect(',');
    }
  }
  void skip_space() {
    while (place_ < text_.size() && std::string_view(" \t\r\n").find(text_[place_]) != std::string_view::npos) ++place_;
  }
  void expect(char c) {
    skip_space();
    if (take() != c) fail();
  }
  char take() {
    if (place_ >= text_.size()) fail();
    return text_[place_++];
  }
  void word(std::string_view wanted) {
    if (text_.substr(place_, wanted.size()) != wanted) fail();
    place_ += wanted.size();
  }
  [[noreturn]] void fail() const {
    throw Error("the server's answer is no JSON as expected, at byte " + std::to_string(place_));
  }

  std::string_view text_;
  std::size_t place_ = 0;
};

}  // namespace trackkeras
